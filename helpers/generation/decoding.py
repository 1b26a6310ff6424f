"""Decoding by hand: how the scores of a causal language model become a text.

``generate`` writes what transformers' own ``generate`` writes, token for token: greedily, by
sampling with the same seed, or with beams.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from helpers import runtime
from helpers.errors import InvalidValue

_NEVER = -1e9  # the log-probability of what must not win
_REQUIRED = ("max_new_tokens", "num_beams")
_SETTINGS = {  # name: (what it must be, the test, what to do otherwise)
    "max_new_tokens": ("a whole number of at least 1", lambda n: _whole(n) and n >= 1, ""),
    "num_beams": (
        "a whole number of at least 1",
        lambda n: _whole(n) and n >= 1,
        "1 is greedy search or sampling.",
    ),
    "temperature": ("above 0", lambda t: t > 0, "For the most probable token, leave sample=False."),
    "top_k": ("a whole number of at least 1", lambda k: _whole(k) and k >= 1, "None keeps all."),
    "top_p": ("above 0 and at most 1", lambda p: 0 < p <= 1, "1 or None keeps all."),
    "repetition_penalty": ("above 0", lambda r: r > 0, "1 or None changes nothing; try 1.2."),
}


def penalise_repetition(
    scores: Tensor, input_ids: Tensor, penalty: float, attention_mask: Tensor | None = None
) -> Tensor:
    """Tokens that have occurred become less probable, each once, however often it occurred.

    scores: (B, V) logits or log-probabilities. input_ids: (B, T) prompt and text so far.
    penalty: above 0; a score above 0 is divided by it, one below 0 multiplied. 1 changes nothing.
    attention_mask: (B, T) with 0 where padding stands, which does not count as having occurred.
    Source: Keskar et al. 2019 (CTRL), section 4.1, who only divide; the sign is transformers'.
    """
    check(repetition_penalty=penalty)
    once = torch.zeros_like(scores)
    real = torch.ones_like(scores[:, :1]) if attention_mask is None else attention_mask.to(scores)
    once.scatter_add_(1, input_ids, real.expand(input_ids.shape))  # (B, V) how often it occurred
    weaker = torch.where(scores < 0, scores * penalty, scores / penalty)
    return torch.where(once > 0, weaker, scores)


def apply_temperature(scores: Tensor, temperature: float) -> Tensor:
    """Scores (B, V) divided by the temperature, which is above 0: below 1 sharpens the
    distribution, above 1 flattens it. Source: Ackley et al. 1985."""
    check(temperature=temperature)
    return scores / temperature


def keep_top_k(scores: Tensor, top_k: int) -> Tensor:
    """The ``top_k`` highest scores of each row of (B, V); the others become -infinity.

    top_k: at least 1. Scores that tie with the last one kept are kept too.
    Source: Fan et al. 2018.
    """
    check(top_k=top_k)
    last = scores.topk(min(top_k, scores.shape[-1])).values[..., -1:]  # (B, 1)
    return scores.masked_fill(scores < last, -torch.inf)


def keep_top_p(scores: Tensor, top_p: float) -> Tensor:
    """The nucleus of each row of (B, V): the fewest most probable tokens that together have a
    probability of at least ``top_p``; the others become -infinity.

    top_p: above 0, at most 1. The most probable token always stays.
    Source: Holtzman et al. 2020, section 3.1.
    """
    check(top_p=top_p)
    rising, order = scores.sort(dim=-1)  # (B, V) each, the least probable first
    below = rising.softmax(dim=-1).cumsum(dim=-1)  # what it and all less probable ones have
    outside = below <= 1 - top_p
    outside[..., -1] = False
    return scores.masked_fill(outside.scatter(-1, order, outside), -torch.inf)


def filter_scores(
    scores: Tensor,
    *,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Scores (B, V) after temperature, then top-k, then top-p: transformers' order. The nucleus
    is that of the distribution which the first two have left. None leaves a filter out."""
    if temperature is not None:
        scores = apply_temperature(scores, temperature)
    if top_k is not None:
        scores = keep_top_k(scores, top_k)
    return scores if top_p is None else keep_top_p(scores, top_p)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check(**settings: Any) -> None:
    """InvalidValue for the first of these settings that is out of its range; None means unset."""
    for name, value in settings.items():
        allowed, holds, advice = _SETTINGS[name]
        if value is None and name not in _REQUIRED:
            continue
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise InvalidValue(f"{name} is {value!r}; give a finite number, {allowed}.")
        if not holds(value):
            raise InvalidValue(f"{name} is {value}; it must be {allowed}. {advice}".rstrip())


class Reader:
    """Reads a growing text and says what may come next.

    With the cache, the keys and values of all layers are kept for what it has read, and only the
    newest token goes through the model; without it, the whole text does at every step.

    mask: (B, T) of the prompt; 0 marks padding on the left.
    Raises InvalidValue: a mask without a column, which is an empty prompt.
    """

    def __init__(self, model: Any, mask: Tensor, *, use_cache: bool = True) -> None:
        if mask.dim() != 2 or 0 in mask.shape:
            raise InvalidValue(
                f"the prompt's mask has the shape {tuple(mask.shape)}; (B, T) with at least one "
                f"token is wanted: nothing can go on from an empty prompt."
            )
        self.model, self.mask, self.use_cache, self.cache = model, mask, use_cache, None

    def scores(self, ids: Tensor) -> Tensor:
        """Logits (B, V), float32, of the token after ``ids`` (B, T): all the text so far."""
        added = ids.shape[1] - self.mask.shape[1]
        self.mask = torch.nn.functional.pad(self.mask, (0, added), value=1)
        unread = ids if self.cache is None else ids[:, -1:]
        options = {}
        if not self.mask.all():
            positions = (self.mask.cumsum(-1) - 1).clamp_min(0)
            options["position_ids"] = positions[:, -unread.shape[1] :]
        output = self.model(
            input_ids=unread,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=self.use_cache,
            logits_to_keep=1,
            **options,
        )
        self.cache = output.past_key_values if self.use_cache else None
        return output.logits[:, -1].float()

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on from what row ``rows[i]`` has read."""
        if self.cache is not None:
            self.cache.reorder_cache(rows)


@torch.no_grad()
def generate(
    model: Any,
    input_ids: Tensor,
    *,
    max_new_tokens: int,
    attention_mask: Tensor | None = None,
    sample: bool = False,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float | None = None,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool = False,
    seed: int = 42,
    use_cache: bool = True,
    end_tokens: Sequence[int] | None = None,
) -> Tensor:
    """Prompts and what the model wrote after them: (B, T + new tokens), padded after an end token.

    input_ids: (B, T) int64, T >= 1; shorter prompts are padded on the left.
    attention_mask: (B, T) 1 for a token, 0 for padding; None: no padding.
    max_new_tokens: at least 1; prompt and new tokens must fit the model's positions.
    sample: draw each token (from ``seed``; torch's global generator is left alone), after
        ``temperature``, ``top_k`` and ``top_p``, which mean nothing without it.
    num_beams: above 1 keeps that many texts a prompt and returns the one with the highest
        log-probability / length ** ``length_penalty``, both of the new tokens. ``early_stopping``:
        stop as soon as ``num_beams`` texts have ended; otherwise go on while the best running one
        scores higher than the worst of them. Neither means anything without beams.
    use_cache: keep keys and values; the tokens are the same without, only slower.
    end_tokens: ids that end a text; None takes the model's own, () has none.
    Raises InvalidValue: an argument out of its range, padding on the right, a prompt that is empty,
    does not fit or holds ids outside the vocabulary, sampling together with beams, settings of the
    one or the other without it.
    """
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    check(max_new_tokens=max_new_tokens, num_beams=num_beams, **sampling)
    check(repetition_penalty=repetition_penalty)
    for name, value in sampling.items():
        if value is not None and not sample:
            raise InvalidValue(f"{name} is {value}, but nothing is drawn; set sample=True.")
    if sample and num_beams > 1:
        raise InvalidValue(f"num_beams is {num_beams} with sample=True; choose one of the two.")
    if num_beams == 1 and (length_penalty != 1.0 or early_stopping):
        raise InvalidValue(
            f"length_penalty is {length_penalty} and early_stopping {early_stopping}, but there "
            f"are no beams to rank; set num_beams above 1 or leave both out."
        )
    runtime.check_seed(seed)
    mask = _check_prompt(model, input_ids, attention_mask, max_new_tokens)
    ends, pad = _end_and_padding(model, end_tokens)
    ends, penalty = ends.to(input_ids.device), repetition_penalty or 1.0
    training = model.training
    model.eval()
    try:
        if num_beams > 1:
            rows = []
            for row, kept in zip(input_ids, mask, strict=True):
                running = row[kept.bool()].repeat(num_beams, 1)  # (b, T of this prompt)
                reader = Reader(model, torch.ones_like(running), use_cache=use_cache)
                best = _beam_search(
                    reader, running, max_new_tokens, ends, penalty, length_penalty, early_stopping
                )
                rows.append(best[running.shape[1] :])
            new = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
            return torch.cat([input_ids, new], dim=1)
        generator = torch.Generator(input_ids.device).manual_seed(seed) if sample else None
        reader = Reader(model, mask, use_cache=use_cache)
        return _one_by_one(
            reader, input_ids, max_new_tokens, ends, pad, penalty, sampling, generator
        )
    finally:
        model.train(training)


def _one_by_one(
    reader: Reader,
    ids: Tensor,
    max_new_tokens: int,
    ends: Tensor,
    pad: int,
    penalty: float,
    sampling: dict[str, Any],
    generator: torch.Generator | None,
) -> Tensor:
    """Texts (B, T + new) whose next token is the most probable one, or drawn."""
    running = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    for _ in range(max_new_tokens):
        scores = reader.scores(ids)  # (B, V)
        scores = penalise_repetition(scores, ids, penalty, reader.mask)
        if generator is None:
            token = scores.argmax(dim=-1)  # (B,)
        else:
            p = filter_scores(scores, **sampling).softmax(dim=-1)  # (B, V)
            token = torch.multinomial(p, 1, generator=generator)[:, 0]
        token = torch.where(running, token, pad)
        ids = torch.cat([ids, token[:, None]], dim=1)
        running = running & ~torch.isin(token, ends)
        if not running.any():
            break
    return ids


def _beam_search(
    reader: Reader,
    running: Tensor,
    max_new_tokens: int,
    ends: Tensor,
    penalty: float,
    length_penalty: float,
    early_stopping: bool,
) -> Tensor:
    """The best text (T + new,) that goes on from one prompt, of which ``running`` (b, T) holds as
    many copies as there are beams."""
    b = len(running)
    total = torch.full((b, 1), _NEVER, device=running.device)
    total[0] = 0.0  # the beams are still equal: only the first counts
    finished: list[tuple[float, Tensor]] = []  # the best first
    for length in range(1, max_new_tokens + 1):
        log_p = reader.scores(running).log_softmax(dim=-1)  # (b, V)
        log_p = penalise_repetition(log_p, running, penalty)
        # Each beam has at most len(ends) ways to end, so at least b of these go on.
        top, place = (log_p + total).flatten().topk(max(2, 1 + len(ends)) * b)
        beam, token = place // log_p.shape[1], place % log_p.shape[1]
        longer = torch.cat([running[beam], token[:, None]], dim=1)
        ended = torch.isin(token, ends) | (length == max_new_tokens)
        for i in ended[:b].nonzero().flatten().tolist():
            finished.append((top[i].item() / length**length_penalty, longer[i]))
        finished = sorted(finished, key=lambda pair: -pair[0])[:b]
        going = (~ended).nonzero().flatten()[:b]
        if not len(going):
            break
        running, total = longer[going], top[going, None]
        reader.reorder(beam[going])
        best_running = total[0].item() / length**length_penalty
        if len(finished) == b and (early_stopping or best_running <= finished[-1][0]):
            break
    return finished[0][1]


def _end_and_padding(model: Any, end_tokens: Sequence[int] | None) -> tuple[Tensor, int]:
    settings = model.generation_config
    ends = settings.eos_token_id if end_tokens is None else list(end_tokens)
    ends = torch.tensor([] if ends is None else ends, dtype=torch.long).reshape(-1)
    if settings.pad_token_id is not None:
        return ends, settings.pad_token_id
    return ends, int(ends[0]) if len(ends) else 0


def _check_prompt(model: Any, ids: Tensor, mask: Tensor | None, max_new_tokens: int) -> Tensor:
    """The attention mask (B, T)."""
    if ids.dim() != 2 or 0 in ids.shape or ids.dtype != torch.long:
        raise InvalidValue(
            f"input_ids have the shape {tuple(ids.shape)} and are {ids.dtype}; give token ids "
            f"(B, T), int64, with at least one token a prompt: nothing can go on from an empty one."
        )
    vocabulary = model.get_input_embeddings().num_embeddings
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise InvalidValue(
            f"input_ids run from {ids.min()} to {ids.max()}; the model knows 0 to "
            f"{vocabulary - 1}. Use the tokenizer that belongs to the model."
        )
    mask = torch.ones_like(ids) if mask is None else mask.long()
    if mask.shape != ids.shape or not mask[:, -1].all() or (mask.diff(dim=1) < 0).any():
        raise InvalidValue(
            f"the attention mask of shape {tuple(mask.shape)} does not put all padding on the left "
            f"of input_ids {tuple(ids.shape)}; tokenize with padding_side='left'."
        )
    window = getattr(model.config, "max_position_embeddings", None)
    if window is not None and ids.shape[1] + max_new_tokens > window:
        raise InvalidValue(
            f"the prompt has {ids.shape[1]} tokens; with max_new_tokens={max_new_tokens} that is "
            f"more than the model's window of {window}. Shorten the one or the other."
        )
    return mask
