"""The course's formulas as functions on tensors, written with logsumexp and gather.

Conventions throughout:

- Logarithms are natural, so losses and entropies are in nats (divide by ln 2 to get bits).
- A log-likelihood is at most 0 and is maximised. A loss is its negative, at least 0, and is
  minimised.
- A mean is one sum divided by one count. A mean of batch means would give every batch the same
  say, however few items it holds.
- Positions that don't count have the label ``IGNORED`` or a 0 in the attention mask.
- Half-precision logits are converted to float32 first: bf16 keeps two to three significant digits,
  too few for a sum over a vocabulary of 30,000 words.

Shapes: N examples, C classes, B texts, T tokens per text, V words in the vocabulary.
"""

import math

import torch
from torch import Tensor

from helpers.errors import InvalidValue

# The label of a position without a loss. Any number that isn't a class would do; -100 is the
# default of PyTorch's cross-entropy, and transformers relies on it.
IGNORED = -100


def token_log_probabilities(
    logits: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """log P(w_i | w_<i) for every token but the first, in nats.

    logits: (B, T, V), the model's output at each position.
    input_ids: (B, T), the tokens themselves.
    attention_mask: (B, T), 1 for a token and 0 for padding (on either side). A token counts if
    both it and the token before it are real; all other entries of the result are exactly 0.
    Returns (B, T - 1), each entry at most 0: column j belongs to token j + 1.
    Raises InvalidValue if the shapes don't match.
    Source: Radford et al. 2018 (GPT), one term of the sum in equation 1.
    """
    _check_shapes(logits, input_ids)
    # The logits at position i - 1 predict token i, hence the shift by one: the last position has
    # nothing to predict, and the first token has nothing that predicts it.
    log_probabilities = _log_p(logits[:, :-1], input_ids[:, 1:])  # (B, T - 1)
    if attention_mask is None:
        return log_probabilities
    real = attention_mask.bool()  # (B, T)
    counts = real[:, 1:] & real[:, :-1]  # (B, T - 1)
    return log_probabilities.masked_fill(~counts, 0.0)  # (B, T - 1)


def log_likelihood(
    logits: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """The pretraining objective: the SUM over i >= 2 of log P(w_i | w_<i), in nats.

    Shapes, mask and errors are those of ``token_log_probabilities``. Returns (B,), each entry at
    most 0 (to be maximised). The first token has no context, so it has no term. The negative sum
    divided by the number of terms is the loss that ``model(input_ids, labels=input_ids)`` reports.
    Source: Radford et al. 2018 (GPT), equation 1.
    """
    return token_log_probabilities(logits, input_ids, attention_mask).sum(dim=-1)  # (B,)


def cross_entropy(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """-log p(y | x) in nats, to be minimised; equal to ``torch.nn.functional.cross_entropy``.

    logits: (N, C).
    labels: (N,) class numbers, or -100 for a row that doesn't count.
    reduction: "none" returns (N,), with 0 for ignored rows; "sum" adds them up; "mean" divides
    the sum by the number of rows that count, and is NaN if there are none.
    Raises InvalidValue for any other shape or reduction.
    Source: Goodfellow et al. 2016, Deep Learning, equation 6.12.
    """
    _check_shapes(logits, labels)
    counts = labels != IGNORED  # (N,)
    # gather can't look up -100, so ignored rows look up class 0 and are zeroed at the end.
    log_p = _log_p(logits, labels.masked_fill(~counts, 0))  # (N,)
    return _reduce((-log_p).masked_fill(~counts, 0.0), counts, reduction)


def masked_lm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The masked-language-model loss: the MEAN of -log P(w_i | masked text), in nats, over the
    positions whose label is not -100 (to be minimised).

    logits: (B, T, V).
    labels: (B, T), the original token at each position chosen for prediction and -100 elsewhere,
    including padding. There is no shift: position i predicts token i.
    Returns a scalar, which is NaN if no position has a label.
    Source: Devlin et al. 2019 (BERT), section 3.1, task 1.
    """
    _check_shapes(logits, labels)
    return cross_entropy(logits.flatten(0, 1), labels.flatten())  # (B * T, V), (B * T,)


def focal_loss(
    logits: Tensor, labels: Tensor, gamma: float = 2.0, reduction: str = "mean"
) -> Tensor:
    """-(1 - p)^gamma log p in nats, where p is the probability of the right class; to be
    minimised.

    logits: (N, C).
    labels: (N,) class numbers, or -100 for a row that doesn't count.
    gamma: at least 0. With 0 this is cross-entropy; the larger gamma is, the less easy examples
    count.
    reduction: as in ``cross_entropy``. (The paper divides by the number of foreground boxes.)
    Raises InvalidValue for any other shape, reduction or gamma.
    Source: Lin et al. 2017, equation 4 (without the class weight alpha of equation 5), here with
    a softmax over C classes.
    """
    if not gamma >= 0:
        raise InvalidValue(f"gamma is {gamma}; it must be at least 0 (2 is usual).")
    losses = cross_entropy(logits, labels, reduction="none")  # (N,) -log p
    # 1 - p as -expm1(log p), which stays exact when p is almost 1. The floor keeps the gradient
    # finite for gamma < 1, where the slope of x^gamma at 0 is infinite.
    wrong = (-torch.expm1(-losses)).clamp_min(torch.finfo(losses.dtype).tiny)  # (N,)
    return _reduce(wrong**gamma * losses, labels != IGNORED, reduction)


def consistency_loss(logits: Tensor, again: Tensor) -> Tensor:
    """How far apart two predictions for the same examples are: half the sum of the
    Kullback-Leibler divergences in both directions, averaged over the examples, in nats (at
    least 0; to be minimised).

    logits, again: (N, C), the outputs of two passes of one model, each with its own dropout mask.
    Source: Liang et al. 2021 (R-Drop), equation 2.
    """
    log_p, log_q = (torch.log_softmax(_at_least_float32(z), dim=-1) for z in (logits, again))
    # KL(p, q) + KL(q, p) = the sum over classes of (p - q) (log p - log q).
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=-1).mean() / 2  # scalar


def perplexity(mean_nats: float | Tensor) -> float:
    """exp of a mean loss in nats over ALL tokens: 1 for a model that is always certain and right, V
    for a blind guess. Averaging the perplexities of batches gives another number.
    Source: Jelinek et al. 1977.
    """
    return math.exp(float(mean_nats))


def bits_per_byte(total_nats: float | Tensor, number_of_bytes: int) -> float:
    """The total loss of a text in bits, divided by its length in bytes (UTF-8).

    Unlike perplexity, this can be compared between models with different tokenizers, because
    the number of bytes doesn't depend on how the text is cut into tokens.
    total_nats: the SUM of -log P over the tokens of the text (at least 0).
    Source: Gao et al. 2020 (The Pile), section 3.1.
    """
    return float(total_nats) / (math.log(2) * number_of_bytes)


def unigram_entropy(ids: Tensor) -> float:
    """The entropy -sum p(w) log p(w) of the token frequencies, in nats per token (0 to log V).

    No model that ignores the context can reach a lower mean loss on the same tokens, so this is
    the first bar for a language model to clear.
    ids: token ids of any shape. Source: Shannon 1948, section 6.
    """
    # Only words that occur are counted: 0 log 0 would be NaN.
    p = torch.unique(ids, return_counts=True)[1].double() / ids.numel()
    return float(-(p * p.log()).sum())


def adamw_step(
    parameter: Tensor,
    gradient: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    step: int,
    *,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    weight_decay: float = 0.01,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of AdamW; returns the new (parameter, first_moment, second_moment).

    All tensors have the same shape and are left unchanged. The moments start at 0, and ``step``
    at 1. Weight decay is decoupled: it shrinks the parameter by ``learning_rate * weight_decay``
    (the paper's lambda) and never enters the moments, as in ``torch.optim.AdamW``.
    Raises InvalidValue for a step below 1.
    Source: Loshchilov & Hutter 2019, algorithm 2; moments and bias correction: Kingma & Ba 2015,
    algorithm 1.
    """
    if step < 1:
        raise InvalidValue(f"step is {step}; the first one is 1 (bias correction needs it).")
    beta1, beta2 = betas
    m = beta1 * first_moment + (1 - beta1) * gradient  # running mean of the gradients
    v = beta2 * second_moment + (1 - beta2) * gradient**2  # running mean of their squares
    # The moments start at 0 and are too small at first. Without this correction the first step
    # would be about three times too long: v is a thousandth of its value, m only a tenth.
    m_hat = m / (1 - beta1**step)
    v_hat = v / (1 - beta2**step)
    decayed = parameter * (1 - learning_rate * weight_decay)
    return decayed - learning_rate * m_hat / (v_hat.sqrt() + epsilon), m, v


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _log_p(logits: Tensor, targets: Tensor) -> Tensor:
    """log softmax(logits) at the targets, without computing the softmax, whose exp could
    overflow: from (..., C) and (...) to (...)."""
    logits = _at_least_float32(logits)
    of_target = logits.gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)
    return of_target - torch.logsumexp(logits, dim=-1)


def _reduce(losses: Tensor, counts: Tensor, reduction: str) -> Tensor:
    """``losses`` (N,) as they are, added up, or added up and divided by how many count."""
    if reduction not in ("none", "sum", "mean"):
        raise InvalidValue(f"reduction is {reduction!r}; choose 'none', 'sum' or 'mean'.")
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / counts.sum()


def _check_shapes(logits: Tensor, labels: Tensor) -> None:
    if logits.shape[:-1] != labels.shape:
        raise InvalidValue(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not match; the "
            f"logits must have the shape of the labels or token ids and one more axis, of classes."
        )
