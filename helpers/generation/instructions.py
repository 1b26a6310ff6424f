"""Instruction tuning: the course's pairs of instruction and answer, their encoding for training,
and the answers of a model.

Only the answer and its end token have labels, because the model should learn to answer, not to
write questions.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers.assets import catalog
from helpers.batches import EncodedTexts, Indices
from helpers.errors import CourseError, InvalidValue, unknown_name
from helpers.losses import IGNORED

SPLITS = ("train", "heldout")
# Without an explicit system message, the chat template of some models (SmolLM2's, for example)
# inserts its own.
SYSTEM = "Answer briefly."
_FIELDS = ("id", "split", "kind", "instruction", "answer")


class EncodedInstructions:
    """Conversations of one instruction and one answer, for ``training.fit``.

    texts: the token ids of N conversations.
    prompt_lengths: (N,), tokens before the answer.
    lengths: (N,), tokens of prompt, answer and end token.
    """

    def __init__(self, texts: EncodedTexts, prompt_lengths: np.ndarray) -> None:
        self.texts, self.prompt_lengths, self.lengths = texts, prompt_lengths, texts.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(
        self, indices: Indices, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and ``labels``, all (B, T) int64 and padded on the
        right. Labels are -100 in the prompt and the padding. ``generator`` is not used."""
        batch = self.texts.batch(indices)
        prompt = torch.from_numpy(self.prompt_lengths[np.asarray(indices)])[:, None]  # (B, 1)
        columns = torch.arange(batch["input_ids"].shape[1])  # (T,)
        in_answer = batch["attention_mask"].bool() & (columns >= prompt)  # (B, T)
        return batch | {"labels": batch["input_ids"].masked_fill(~in_answer, IGNORED)}

    def count_items(self, batch: dict[str, Tensor]) -> int:
        """Tokens of the answers and their end tokens, because the loss is the mean over them."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())


def load_instructions(
    split: str | None = None, *, path: str | Path | None = None
) -> list[dict[str, str]]:
    """The course's pairs (id, split, kind, instruction, answer), in the order of the file.

    split: "train" or "heldout" (never to be trained on); None: both.
    path: another JSON file in the same format.
    Raises InvalidValue for an unknown split, a field that is missing or empty, or an id that
    occurs twice, and CourseError if the file can't be read.
    """
    if split is not None and split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    path = Path(path) if path else catalog.data_folder() / "instructions.json"
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CourseError(f"the instructions in {path} cannot be read: {error}") from error
    if not isinstance(pairs, list) or not pairs:
        raise InvalidValue(f"{path} holds no pairs; it must be a JSON list of at least one.")
    seen = set()
    for number, pair in enumerate(pairs):
        name = f"pair {number} in {path.name}"
        for field in _FIELDS:
            value = pair.get(field) if isinstance(pair, dict) else None
            if not isinstance(value, str) or not value.strip():
                raise InvalidValue(
                    f"{name} has {value!r} as its {field}; it must be non-empty text."
                )
        if pair["split"] not in SPLITS:
            raise InvalidValue(
                f"{name} ({pair['id']}) has the split {pair['split']!r}; it must be one of "
                f"{', '.join(SPLITS)}."
            )
        if pair["id"] in seen:
            raise InvalidValue(f"{name} has the id {pair['id']!r}, which an earlier pair has.")
        seen.add(pair["id"])
    return [pair for pair in pairs if split in (None, pair["split"])]


def encode_instructions(
    tokenizer: Any,
    pairs: Sequence[dict[str, str]],
    *,
    max_length: int = 128,
    system: str | None = SYSTEM,
) -> EncodedInstructions:
    """Each pair as one conversation in the chat format of the tokenizer.

    pairs: dictionaries with ``instruction`` and ``answer`` (and ``id``, for error messages).
    max_length: the most tokens per conversation. A longer one is refused and not cut, because
        the model would learn to stop in the middle of an answer.
    system: the system message before the instruction; None leaves it to the chat template.
    Raises InvalidValue if there are no pairs, if a text is empty, if a pair is too long (the
    message names it), or if the tokenizer has no chat template or no end token.
    """
    if not pairs:
        raise InvalidValue("there are no pairs to encode; give at least one.")
    prompts = _encode_prompts(tokenizer, [pair["instruction"] for pair in pairs], system)
    rows: list[list[int]] = []
    for pair, prompt in zip(pairs, prompts, strict=True):
        name = pair.get("id", f"number {len(rows)}")
        if not pair["answer"].strip():
            raise InvalidValue(f"the answer of pair {name} is empty; remove the pair.")
        reply = tokenizer(pair["answer"], add_special_tokens=False)["input_ids"]
        rows.append([*prompt, *reply, tokenizer.eos_token_id])
        if len(rows[-1]) > max_length:
            raise InvalidValue(
                f"pair {name} has {len(rows[-1])} tokens, more than max_length={max_length}. "
                f"Shorten it, or give a larger max_length."
            )
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    texts = EncodedTexts(
        np.concatenate(rows).astype(np.int32), offsets, pad_token_id=_padding(tokenizer)
    )
    return EncodedInstructions(texts, np.array([len(prompt) for prompt in prompts]))


@torch.no_grad()
def answer(
    model: Any,
    tokenizer: Any,
    instructions: Sequence[str],
    *,
    max_new_tokens: int = 32,
    system: str | None = SYSTEM,
    batch_size: int = 16,
) -> list[str]:
    """The model's answer to each instruction: always the most probable next token, until the end
    token or ``max_new_tokens`` tokens.

    system: the system message that the model was trained with.
    The model's mode (training or evaluation) is restored afterwards.
    Raises InvalidValue for a number below 1, an empty instruction, or too many tokens for the
    model.
    """
    from transformers import GenerationConfig

    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise InvalidValue(f"{name} is {value}; it must be at least 1.")
    if not instructions:
        return []
    prompts = _encode_prompts(tokenizer, instructions, system)
    longest, positions = max(map(len, prompts)), model.config.max_position_embeddings
    if longest + max_new_tokens > positions:
        raise InvalidValue(
            f"the longest prompt has {longest} tokens; with max_new_tokens={max_new_tokens} that "
            f"is more than the model's {positions} positions. Shorten it or lower max_new_tokens."
        )
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=_padding(tokenizer),
    )
    training, replies = model.training, []
    model.eval()
    try:
        for start in range(0, len(prompts), batch_size):
            part = prompts[start : start + batch_size]
            width = max(map(len, part))
            # Padding goes on the left, so that every answer starts right after its prompt.
            empty = [width - len(prompt) for prompt in part]
            padded = zip(empty, part, strict=True)
            ids = torch.tensor([[settings.pad_token_id] * n + prompt for n, prompt in padded])
            mask = (torch.arange(width) >= torch.tensor(empty)[:, None]).long()
            written = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=settings,
            )
            replies += tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
    finally:
        model.train(training)
    return [reply.strip() for reply in replies]


def _encode_prompts(
    tokenizer: Any, instructions: Sequence[str], system: str | None
) -> list[list[int]]:
    """The token ids of everything before the answers."""
    if not getattr(tokenizer, "chat_template", None) or tokenizer.eos_token_id is None:
        raise InvalidValue(
            "the tokenizer has no chat template or no end token; use that of a model tuned to "
            "follow instructions, such as 'causal-lm'."
        )
    before = [] if system is None else [{"role": "system", "content": system}]
    prompts = []
    for number, instruction in enumerate(instructions):
        if not instruction.strip():
            raise InvalidValue(f"instruction {number} is empty ({instruction!r}); remove it.")
        messages = [*before, {"role": "user", "content": instruction}]
        prompts.append(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )
    return tokenizer(prompts, add_special_tokens=False)["input_ids"]


def _padding(tokenizer: Any) -> int:
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
