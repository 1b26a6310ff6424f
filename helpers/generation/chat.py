"""A writing assistant and a chat with memory, built on ``decoding.generate``."""

from dataclasses import dataclass
from typing import Any

import torch

from helpers.errors import InvalidValue
from helpers.generation.decoding import generate
from helpers.generation.instructions import SYSTEM, encode_prompt


def continue_text(
    model: Any,
    tokenizer: Any,
    text: str,
    *,
    versions: int = 1,
    max_new_tokens: int = 30,
    **settings: Any,
) -> list[str]:
    """Possible continuations of ``text``, without the text itself.

    versions: how many, at least 1. They differ only with ``sample=True``.
    settings: passed to ``decoding.generate``, for example ``sample=True, top_p=0.9, seed=1``.
    Raises InvalidValue for an empty text and whatever else ``decoding.generate`` refuses.
    """
    ids = torch.tensor([tokenizer(text)["input_ids"]] * versions, device=model.device)
    written = generate(model, ids, max_new_tokens=max_new_tokens, **settings)
    return tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)


@dataclass(frozen=True)
class Reply:
    """The model's answer to a message.

    prompt: everything the model read before it answered, as text.
    forgotten: how many of the oldest turns (a question and its answer) were left out because
        they no longer fit.
    """

    text: str
    prompt: str
    forgotten: int

    def __str__(self) -> str:
        if not self.forgotten:
            return self.text
        turns = "turn" if self.forgotten == 1 else f"{self.forgotten} turns"
        return f"{self.text}\n[forgotten, to fit the window: the oldest {turns}]"


class Chat:
    """A conversation with a model.

    A language model remembers nothing, so each message is sent together with the whole conversation
    before it. When that no longer fits, the oldest turns are left out; the system message stays.

    window: the most tokens that prompt and answer may have together; None: the model's own window.
    max_new_tokens: the room reserved for the answer.
    settings: passed to ``decoding.generate``.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        system: str | None = SYSTEM,
        window: int | None = None,
        max_new_tokens: int = 40,
        **settings: Any,
    ) -> None:
        own = model.config.max_position_embeddings
        window = own if window is None else window
        if not max_new_tokens < window <= own:
            raise InvalidValue(
                f"window is {window}; it must be above max_new_tokens={max_new_tokens} and at most "
                f"the model's {own} positions."
            )
        self.model, self.tokenizer, self.system = model, tokenizer, system
        self.room = window - max_new_tokens  # for the prompt
        self.settings = settings | {"max_new_tokens": max_new_tokens}
        self.turns: list[tuple[str, str]] = []  # (question, answer), those that still fit

    def say(self, message: str) -> Reply:
        """The answer to ``message``, given as much of the conversation as fits.

        Raises InvalidValue for an empty message, or one that doesn't fit the window even on its
        own. The conversation then stays as it was.
        """
        if not message.strip():
            raise InvalidValue(f"the message is {message!r}: empty. Write at least one word.")
        kept = self.turns
        while len(ids := encode_prompt(self.tokenizer, message, self.system, kept)) > self.room:
            if not kept:
                raise InvalidValue(
                    f"the message has {len(ids)} tokens including the system message; the window "
                    f"leaves {self.room}. Shorten it, or widen the window."
                )
            kept = kept[1:]
        written = generate(
            self.model, torch.tensor([ids], device=self.model.device), **self.settings
        )
        text = self.tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True).strip()
        forgotten = len(self.turns) - len(kept)
        self.turns = [*kept, (message, text)]
        return Reply(text, self.tokenizer.decode(ids), forgotten)

    def reset(self) -> None:
        """Forget the whole conversation."""
        self.turns = []
