"""Instructions and answers: the course's pairs, as examples to train a chat model on, and the
model's own answers.

Only the answer and its end token have labels: the model is to answer, not to write questions.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers.assets import catalog
from helpers.batches import IGNORED, EncodedTexts
from helpers.errors import CourseError, InvalidValue, unknown_name

SPLITS = ("train", "heldout")
# Without a system message of ours, a model's template may write one of its own (SmolLM2's does).
SYSTEM = "Answer briefly."
_FIELDS = ("id", "split", "kind", "instruction", "answer")


class EncodedInstructions:
    """Conversations of one instruction and one answer, for ``training.fit``.

    texts: the N conversations' token ids. prompt_lengths: (N,) tokens before the answer.
    lengths: (N,) tokens of prompt, answer and end token.
    """

    def __init__(self, texts: EncodedTexts, prompt_lengths: np.ndarray) -> None:
        self.texts, self.prompt_lengths, self.lengths = texts, prompt_lengths, texts.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(
        self, indices: Sequence[int] | np.ndarray, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and ``labels``, all (B, T) int64 and padded on the
        right. Labels are -100 on the prompt and the padding; ``generator`` is not used."""
        batch = self.texts.batch(indices)
        prompt = torch.from_numpy(self.prompt_lengths[np.asarray(indices)])[:, None]
        columns = torch.arange(batch["input_ids"].shape[1])
        marked = batch["attention_mask"].bool() & (columns >= prompt)
        return batch | {"labels": batch["input_ids"].masked_fill(~marked, IGNORED)}

    def count_items(self, batch: dict[str, Tensor]) -> int:
        """Tokens of the answers, end tokens included: the model's loss is the mean over them."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())


def load_instructions(
    split: str | None = None, *, path: str | Path | None = None
) -> list[dict[str, str]]:
    """The course's pairs (id, split, kind, instruction, answer), in the order of the file.

    split: "train" or "heldout" (never to be trained on); None: both.
    path: another JSON file of the same form. Raises InvalidValue: an unknown split, a field that
    is missing or empty, an id that occurs twice; CourseError: the file cannot be read.
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
                raise InvalidValue(f"{name} has {value!r} as its {field}; it must be a text.")
        if pair["split"] not in SPLITS:
            raise InvalidValue(
                f"{name} ({pair['id']}) has the split {pair['split']!r}; it must be one of "
                f"{', '.join(SPLITS)}."
            )
        if pair["id"] in seen:
            raise InvalidValue(f"{name} has the id {pair['id']!r}, which an earlier one has.")
        seen.add(pair["id"])
    return [pair for pair in pairs if split in (None, pair["split"])]


def encode_instructions(
    tokenizer: Any,
    pairs: Sequence[dict[str, str]],
    *,
    max_length: int = 128,
    system: str | None = SYSTEM,
) -> EncodedInstructions:
    """Each pair as one conversation in the tokenizer's own chat format.

    pairs: dictionaries with ``instruction`` and ``answer`` (and ``id``, for messages).
    max_length: tokens of a conversation at most; nothing is cut off.
    system: what stands before the instruction; None leaves that to the chat template.
    Raises InvalidValue: no pairs, an empty text, a pair that is too long (it is named), a
    tokenizer without a chat template or an end token.
    """
    if not pairs:
        raise InvalidValue("there are no pairs to encode; give at least one.")
    answers = [pair["answer"] for pair in pairs]
    prompts = _encode_prompts(tokenizer, [pair["instruction"] for pair in pairs], system)
    rows = []
    for pair, prompt, answer in zip(pairs, prompts, answers, strict=True):
        name = pair.get("id", f"number {len(rows)}")
        if not answer.strip():
            raise InvalidValue(f"the answer of pair {name} is empty; remove the pair.")
        reply = tokenizer(answer, add_special_tokens=False)["input_ids"]
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
    """The model's answer to each instruction: always the most probable next token, up to the end
    token or ``max_new_tokens`` tokens. ``system`` must be what the model was trained with.

    The prompts of a batch are padded on the left, so that every answer starts right after its
    prompt. The model's mode (training or not) is put back.
    Raises InvalidValue: a number below 1, an empty instruction, too many tokens for the model.
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
            f"is more than the model's {positions} positions. Shorten the one or the other."
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
    """Token ids of all that stands before the answers."""
    if not getattr(tokenizer, "chat_template", None) or tokenizer.eos_token_id is None:
        raise InvalidValue(
            "the tokenizer has no chat template or no end token; take one of a model that was "
            "tuned to follow instructions, such as 'causal-lm'."
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
