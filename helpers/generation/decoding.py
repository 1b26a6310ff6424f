"""Decoding by hand: from the scores of a causal language model to a text.

The filters change the scores of the next token, ``Reader`` gets these scores from a model, and
``generate`` chooses tokens one after another: the same ones as the ``generate`` of transformers,
whether it searches greedily, samples with the same seed or uses beams.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from helpers.errors import InvalidValue

# -- filters ---------------------------------------------------------------------------------------


def penalise_repetition(
    scores: Tensor, input_ids: Tensor, penalty: float, attention_mask: Tensor | None = None
) -> Tensor:
    """Make tokens that have already occurred less probable, however often they occurred: a positive
    score is divided by ``penalty`` (above 0), a negative one multiplied.

    scores: (B, V), logits or log-probabilities.
    input_ids: (B, T), the prompt and the text so far.
    attention_mask: (B, T), 0 for padding, which doesn't count as an occurrence.
    Source: Keskar et al. 2019 (CTRL), section 4.1, where scores are only divided. That would
    favour repetition when a score is negative, so transformers looks at the sign.
    """
    _check(repetition_penalty=penalty)
    real = torch.ones_like(scores[:, :1]) if attention_mask is None else attention_mask.to(scores)
    times = torch.zeros_like(scores)  # (B, V) how often each token has occurred
    times.scatter_add_(1, input_ids, real.expand(input_ids.shape))
    weaker = torch.where(scores < 0, scores * penalty, scores / penalty)
    return torch.where(times > 0, weaker, scores)


def apply_temperature(scores: Tensor, temperature: float) -> Tensor:
    """Scores (B, V) divided by ``temperature``, which is above 0. Below 1 it sharpens the
    distribution, above 1 it flattens it. Source: Ackley et al. 1985."""
    _check(temperature=temperature)
    return scores / temperature


def keep_top_k(scores: Tensor, top_k: int) -> Tensor:
    """Keep the ``top_k`` highest scores (at least 1) in each row of (B, V), set the others to
    -infinity. Scores tied with the lowest one kept are kept, too. Source: Fan et al. 2018."""
    _check(top_k=top_k)
    lowest = scores.topk(min(top_k, scores.shape[-1])).values[..., -1:]  # (B, 1)
    return scores.masked_fill(scores < lowest, -torch.inf)


def keep_top_p(scores: Tensor, top_p: float) -> Tensor:
    """Keep the nucleus of each row of (B, V): the smallest set of most probable tokens whose
    probabilities add up to at least ``top_p``. Set the others to -infinity.

    top_p: above 0, at most 1. The most probable token always stays.
    Source: Holtzman et al. 2020, section 3.1.
    """
    _check(top_p=top_p)
    # In ascending order, a token is outside if it and everything below it add up to 1 - top_p at
    # most: the tokens above it then have top_p without it.
    ascending, order = scores.sort(dim=-1)  # (B, V) each
    outside = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p  # (B, V)
    # Rounding can leave the cumulative sum just below 1. With a tiny top_p, even the most probable
    # token would then be removed, and there would be nothing left to draw from.
    outside[..., -1] = False
    return scores.masked_fill(outside.scatter(-1, order, outside), -torch.inf)


def filter_scores(
    scores: Tensor,
    *,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Scores (B, V) after temperature, then top-k, then top-p; None skips a filter.

    The order matters, and is that of transformers: the nucleus is taken from the distribution
    that the first two filters leave.
    """
    if temperature is not None:
        scores = apply_temperature(scores, temperature)
    if top_k is not None:
        scores = keep_top_k(scores, top_k)
    return scores if top_p is None else keep_top_p(scores, top_p)


# -- reading and writing ---------------------------------------------------------------------------


class Reader:
    """Reads a growing text and scores the next token.

    With the cache, it keeps the keys and values of all layers for the text it has read, and only
    the newest token goes through the model. Without it, the whole text does at every step.

    mask: (B, T) for the prompt, with 0 for padding on the left.
    Raises InvalidValue for an empty prompt.
    """

    def __init__(self, model: Any, mask: Tensor, *, use_cache: bool = True) -> None:
        if not mask.numel():
            raise InvalidValue("the prompt is empty; give at least one token to go on from.")
        self.model, self.mask, self.use_cache, self.cache = model, mask, use_cache, None

    def scores(self, ids: Tensor) -> Tensor:
        """Logits (B, V), float32, for the token after ``ids`` (B, T), the whole text so far."""
        added = ids.shape[1] - self.mask.shape[1]
        self.mask = pad(self.mask, (0, added), value=1)  # (B, T)
        unread = ids if self.cache is None else ids[:, -1:]  # (B, T) or (B, 1)
        options = {}
        if not self.mask.all():
            # Positions count from the first real token, so that padding doesn't change the text.
            positions = (self.mask.cumsum(-1) - 1).clamp_min(0)  # (B, T)
            options["position_ids"] = positions[:, -unread.shape[1] :]
        output = self.model(
            input_ids=unread,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=self.use_cache,
            logits_to_keep=1,  # only the last position: (B, T, V) of a long prompt is large
            **options,
        )
        self.cache = output.past_key_values if self.use_cache else None
        return output.logits[:, -1].float()

    def reorder(self, rows: Tensor) -> None:
        """Let row i continue from what row ``rows[i]`` has read."""
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
    seed: int = 42,
    end_tokens: Sequence[int] | None = None,
) -> Tensor:
    """The prompts and what the model writes after them: (B, T + new tokens), with padding after
    an end token. The model's mode (training or evaluation) is restored afterwards.

    input_ids: (B, T) int64, T >= 1; shorter prompts are padded on the left.
    attention_mask: (B, T), 1 for a token and 0 for padding; None: no padding.
    max_new_tokens: at least 1. The prompt and the new tokens must fit the model's window.
    sample: draw each token instead of taking the most probable one, after ``temperature``,
        ``top_k`` and ``top_p``, which are only allowed here. The draws depend on ``seed``; torch's
        global generator is left alone.
    num_beams: with more than 1, keep this many texts per prompt, as long as the best unfinished one
        scores higher than the worst finished one; return the one with the highest
        log-probability / length ** ``length_penalty``, both counted over the new tokens.
    end_tokens: ids that end a text. None: those of the model; (): none, every text runs to
        ``max_new_tokens``.
    Raises InvalidValue for an argument out of range, padding on the right, a prompt that is empty,
    too long or has ids outside the vocabulary, sampling combined with beams, or settings of
    sampling or beams without it.
    """
    sampling: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    _check(max_new_tokens=max_new_tokens, num_beams=num_beams)
    _check(**sampling, repetition_penalty=repetition_penalty)
    for name, value in sampling.items():
        if value is not None and not sample:
            raise InvalidValue(f"{name} is {value}, but nothing is drawn; set sample=True.")
    if sample and num_beams > 1:
        raise InvalidValue(f"num_beams is {num_beams} with sample=True; choose one of the two.")
    if num_beams == 1 and length_penalty != 1:
        raise InvalidValue(f"length_penalty is {length_penalty}; it needs num_beams above 1.")
    mask = _prompt_mask(model, input_ids, attention_mask, max_new_tokens)
    ends, padding = _end_and_padding(model, end_tokens)
    penalty = repetition_penalty or 1.0
    generator = torch.Generator(input_ids.device).manual_seed(seed)
    reader = Reader(model, mask)

    def choose(ids: Tensor) -> Tensor:
        """The next token (B,) of texts (B, T)."""
        scores = penalise_repetition(reader.scores(ids), ids, penalty, reader.mask)  # (B, V)
        if not sample:
            return scores.argmax(dim=-1)
        p = filter_scores(scores, **sampling).softmax(dim=-1)  # (B, V)
        return torch.multinomial(p, 1, generator=generator)[:, 0]

    training = model.training
    model.eval()  # no dropout while writing
    try:
        if num_beams == 1:
            return _token_by_token(input_ids, max_new_tokens, ends, padding, choose)
        rows = []
        for row, kept in zip(input_ids, mask, strict=True):
            beams = row[kept.bool()].repeat(num_beams, 1)  # (b, T of this prompt)
            alone = Reader(model, torch.ones_like(beams))
            best = _beam_search(alone, beams, max_new_tokens, ends, penalty, length_penalty)
            rows.append(best[beams.shape[1] :])
        new = pad_sequence(rows, batch_first=True, padding_value=padding)
        return torch.cat([input_ids, new], dim=1)
    finally:
        model.train(training)


def _token_by_token(
    ids: Tensor, max_new_tokens: int, ends: Tensor, padding: int, choose: Callable[[Tensor], Tensor]
) -> Tensor:
    """Texts (B, T + new)."""
    running = torch.ones(len(ids), dtype=torch.bool, device=ids.device)  # (B,)
    for _ in range(max_new_tokens):
        # Texts that have ended stay in the batch and get padding until all have ended.
        token = torch.where(running, choose(ids), padding)  # (B,)
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
) -> Tensor:
    """The best text (T + new,) for one prompt. ``running`` (b, T) holds a copy of the prompt for
    each of the b beams."""
    b = len(running)
    # All beams start as the same prompt. Only the first may win at first, or all of them would
    # choose the same b tokens.
    total = torch.full((b, 1), -1e9, device=running.device)  # log-probability of each beam
    total[0] = 0.0
    finished: list[tuple[float, Tensor]] = []  # the best first
    for length in range(1, max_new_tokens + 1):
        log_p = reader.scores(running).log_softmax(dim=-1)  # (b, V)
        log_p = penalise_repetition(log_p, running, penalty)
        # Each beam has at most len(ends) ways to end, so at least b of these candidates go on.
        top, place = (log_p + total).flatten().topk(max(2, 1 + len(ends)) * b)
        beam, token = place // log_p.shape[1], place % log_p.shape[1]
        longer = torch.cat([running[beam], token[:, None]], dim=1)  # (candidates, T + length)
        scores = (top / length**length_penalty).tolist()
        ended = torch.isin(token, ends) | (length == max_new_tokens)
        finished += [(scores[i], longer[i]) for i in ended[:b].nonzero().flatten().tolist()]
        finished = sorted(finished, key=lambda pair: -pair[0])[:b]
        going = (~ended).nonzero().flatten()[:b]
        if not len(going) or (len(finished) == b and scores[going[0]] <= finished[-1][0]):
            break
        running, total = longer[going], top[going, None]
        reader.reorder(beam[going])
    return finished[0][1]


def _end_and_padding(model: Any, end_tokens: Sequence[int] | None) -> tuple[Tensor, int]:
    settings = model.generation_config
    ids = settings.eos_token_id if end_tokens is None else list(end_tokens)
    ends = torch.tensor([] if ids is None else ids, dtype=torch.long, device=model.device).flatten()
    if settings.pad_token_id is None:
        return ends, int(ends[0]) if len(ends) else 0
    return ends, settings.pad_token_id


# -- checks ----------------------------------------------------------------------------------------

# The test for each setting, and what it must be, with advice for whoever gets it wrong.
_SETTINGS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_new_tokens": (lambda n: n >= 1, "at least 1."),
    "num_beams": (lambda b: b >= 1, "at least 1. 1 is greedy search or sampling."),
    "temperature": (lambda t: t > 0, "above 0. For the most probable token, set sample=False."),
    "top_k": (lambda k: k >= 1, "at least 1. None keeps all."),
    "top_p": (lambda p: 0 < p <= 1, "above 0 and at most 1. 1 or None keeps all."),
    "repetition_penalty": (lambda r: r > 0, "above 0. 1 or None changes nothing; try 1.2."),
}


def _check(**settings: Any) -> None:
    """Raise InvalidValue for the first of these settings that is out of range."""
    for name, value in settings.items():
        holds, allowed = _SETTINGS[name]
        if value is not None and not holds(value):
            raise InvalidValue(f"{name} is {value}; it must be {allowed}")


def _prompt_mask(model: Any, ids: Tensor, mask: Tensor | None, max_new_tokens: int) -> Tensor:
    """Check the prompt and return its attention mask (B, T)."""
    if ids.dim() != 2 or not ids.numel() or ids.dtype != torch.long:
        raise InvalidValue(
            f"input_ids are {ids.dtype} of shape {tuple(ids.shape)}; give int64 token ids (B, T) "
            f"with at least one token per prompt: nothing can follow an empty one."
        )
    last = model.get_input_embeddings().num_embeddings - 1
    if ids.min() < 0 or ids.max() > last:
        raise InvalidValue(
            f"input_ids run from {ids.min()} to {ids.max()}; the model knows 0 to {last}. "
            f"Use the tokenizer that belongs to the model."
        )
    mask = torch.ones_like(ids) if mask is None else mask.long()
    # The next token is read off the last column, so every prompt must end there.
    if mask.shape != ids.shape or not mask[:, -1].all() or (mask.diff(dim=1) < 0).any():
        raise InvalidValue(
            f"the attention mask of shape {tuple(mask.shape)} does not put all padding on the left "
            f"of input_ids {tuple(ids.shape)}; tokenize with padding_side='left'."
        )
    window = getattr(model.config, "max_position_embeddings", None)
    if window is not None and ids.shape[1] + max_new_tokens > window:
        raise InvalidValue(
            f"the prompt has {ids.shape[1]} tokens; with max_new_tokens={max_new_tokens} that is "
            f"more than the model's window of {window}. Shorten the prompt or lower max_new_tokens."
        )
    return mask
