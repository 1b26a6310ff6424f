"""Instruction tuning: the course's pairs of instruction and answer, their encoding for training,
and the answers of a model.

Only the answer and its end token have labels, because the model should learn to answer, not to
write questions.
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from helpers.assets import catalog
from helpers.batches import TokenRows
from helpers.errors import InvalidValue, unknown_name
from helpers.generation.decoding import generate
from helpers.losses import IGNORED

SPLITS = ("train", "heldout")
# Without an explicit system message, the chat template of some models (SmolLM2's, for example)
# inserts its own.
SYSTEM = "Answer briefly."


def load_instructions(split: str | None = None) -> list[dict[str, str]]:
    """The course's pairs (id, split, kind, instruction, answer), in the order of the file.

    split: "train" or "heldout" (never to be trained on); None: both.
    """
    if split not in (None, *SPLITS):
        raise unknown_name("split", split, SPLITS)
    pairs = json.loads((catalog.data_folder() / "instructions.json").read_text(encoding="utf-8"))
    return [pair for pair in pairs if split in (None, pair["split"])]


def encode_instructions(
    tokenizer: Any,
    pairs: Sequence[dict[str, str]],
    *,
    max_length: int = 128,
    system: str | None = SYSTEM,
) -> TokenRows:
    """Each pair as one conversation in the chat format of the tokenizer, for ``training.fit``.

    pairs: dictionaries with ``instruction`` and ``answer`` (and ``id``, for error messages).
    max_length: the most tokens per conversation. A longer one is refused and not cut, because
        the model would learn to stop in the middle of an answer.
    system: the system message before the instruction; None leaves it to the chat template.
    Raises InvalidValue: a pair that is too long, or a tokenizer without a chat template.
    """
    rows, labels = [], []
    for number, pair in enumerate(pairs):
        prompt = encode_prompt(tokenizer, pair["instruction"], system)
        reply = tokenizer(pair["answer"], add_special_tokens=False)["input_ids"]
        reply.append(tokenizer.eos_token_id)
        rows.append(prompt + reply)
        labels.append([IGNORED] * len(prompt) + reply)
        if len(rows[-1]) > max_length:
            raise InvalidValue(
                f"pair {pair.get('id', number)} has {len(rows[-1])} tokens, more than max_length="
                f"{max_length}. Shorten it, or give a larger max_length."
            )
    return TokenRows(
        {
            "input_ids": (rows, tokenizer.pad_token_id or 0),
            "attention_mask": ([[1] * len(row) for row in rows], 0),
            "labels": (labels, IGNORED),
        }
    )


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
    Raises InvalidValue as ``decoding.generate`` does.
    """
    prompts = [torch.tensor(encode_prompt(tokenizer, text, system)) for text in instructions]
    # Padding goes on the left, so that every answer starts right after its prompt.
    left: dict[str, Any] = {"batch_first": True, "padding_side": "left"}
    replies = []
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        ids = pad_sequence(part, padding_value=tokenizer.pad_token_id or 0, **left)
        mask = pad_sequence([torch.ones_like(prompt) for prompt in part], **left)
        written = generate(
            model,
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_new_tokens,
            end_tokens=[tokenizer.eos_token_id],
        )
        replies += tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
    return [reply.strip() for reply in replies]


def encode_prompt(
    tokenizer: Any,
    message: str,
    system: str | None = SYSTEM,
    turns: Sequence[tuple[str, str]] = (),
) -> list[int]:
    """The token ids of a conversation, in the chat format of the tokenizer, up to the place where
    the answer to ``message`` begins. turns: the questions and answers before it."""
    if not getattr(tokenizer, "chat_template", None):
        raise InvalidValue(
            "the tokenizer has no chat template; use that of a model tuned to follow "
            "instructions, such as 'causal-lm'."
        )
    messages = [] if system is None else [{"role": "system", "content": system}]
    for question, reply in turns:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": reply})
    messages.append({"role": "user", "content": message})
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
