"""A writing assistant and a chat with memory, as plain functions over ``decoding.generate``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from helpers.errors import InvalidValue
from helpers.generation import decoding
from helpers.generation.instructions import SYSTEM


def continue_text(
    model: Any,
    tokenizer: Any,
    text: str,
    *,
    versions: int = 1,
    max_new_tokens: int = 30,
    **settings: Any,
) -> list[str]:
    """What could stand after ``text``: that many versions of it, without the text itself.

    settings: of ``decoding.generate``, such as ``sample=True, top_p=0.9, seed=1``. Versions of one
    call differ only if they are drawn. Raises InvalidValue: an empty text, versions below 1, and
    as ``decoding.generate``.
    """
    if not isinstance(versions, int) or versions < 1:
        raise InvalidValue(f"versions is {versions}; it must be a whole number of at least 1.")
    if not text.strip():
        raise InvalidValue(f"the text is {text!r}: empty. Give at least one word to go on from.")
    ids = torch.tensor([tokenizer(text)["input_ids"]] * versions, device=model.device)
    written = decoding.generate(model, ids, max_new_tokens=max_new_tokens, **settings)
    return tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)


@dataclass(frozen=True)
class Reply:
    """An answer. prompt: all that the model read for it, as text, and prompt_tokens its length.
    forgotten: how many turns (a question and its answer each), the oldest first, did not fit and
    were left out."""

    text: str
    prompt: str
    prompt_tokens: int
    forgotten: int

    def __str__(self) -> str:
        if not self.forgotten:
            return self.text
        turns = "turn" if self.forgotten == 1 else f"{self.forgotten} turns"
        return f"{self.text}\n[the oldest {turns} did not fit the window: forgotten]"


class Chat:
    """A conversation. A language model remembers nothing: what it is to know is sent every time.

    window: tokens that prompt and answer may have together; None takes the model's own window.
    Before each answer the oldest turns are left out until the rest fits; the system message stays.
    max_new_tokens: room that is kept for the answer.
    settings: of ``decoding.generate``.
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
        if not getattr(tokenizer, "chat_template", None):
            raise InvalidValue(
                "the tokenizer has no chat template; take one of a model that was tuned to follow "
                "instructions, such as 'causal-lm'."
            )
        own = model.config.max_position_embeddings
        window = own if window is None else window
        if not max_new_tokens < window <= own:
            raise InvalidValue(
                f"window is {window}; it must be above max_new_tokens={max_new_tokens} and at most "
                f"the model's {own} positions."
            )
        self.model, self.tokenizer, self.system = model, tokenizer, system
        self.window, self.max_new_tokens, self.settings = window, max_new_tokens, settings
        self.turns: list[tuple[str, str]] = []  # (question, answer), those that still fit
        self.forgotten = 0  # turns left out since the conversation began

    def say(self, message: str) -> Reply:
        """The answer to ``message``, with as much of the conversation in mind as fits.

        Raises InvalidValue: an empty message, or one that does not fit the window even alone. The
        conversation is then as it was.
        """
        if not message.strip():
            raise InvalidValue(f"the message is {message!r}: empty. Write at least one word.")
        room = self.window - self.max_new_tokens
        kept = 0
        while len(ids := self._prompt(self.turns[kept:], message)) > room:
            if kept == len(self.turns):
                raise InvalidValue(
                    f"the message has {len(ids)} tokens with the system message around it; the "
                    f"window of {self.window} leaves {room}. Shorten it, or widen the window."
                )
            kept += 1
        prompt = torch.tensor([ids], device=self.model.device)
        written = decoding.generate(
            self.model, prompt, max_new_tokens=self.max_new_tokens, **self.settings
        )
        text = self.tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True).strip()
        self.turns = [*self.turns[kept:], (message, text)]
        self.forgotten += kept
        return Reply(text, self.tokenizer.decode(ids), len(ids), forgotten=kept)

    def reset(self) -> None:
        """Forget everything that was said."""
        self.turns, self.forgotten = [], 0

    def _prompt(self, turns: Sequence[tuple[str, str]], message: str) -> list[int]:
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        for question, answer in turns:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        messages.append({"role": "user", "content": message})
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
