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
    _check_token_shapes(logits, "input_ids", input_ids)
    # The logits at position i - 1 predict token i, hence the shift by one: the last position has
    # nothing to predict, and the first token has nothing that predicts it.
    logits = _at_least_float32(logits)[:, :-1]  # (B, T - 1, V)
    targets = input_ids[:, 1:].long()  # (B, T - 1)
    of_target = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)  # (B, T - 1)
    # The log of a softmax without computing the softmax, whose exp could overflow.
    log_probabilities = of_target - torch.logsumexp(logits, dim=-1)  # (B, T - 1)
    if attention_mask is None:
        return log_probabilities
    if attention_mask.shape != input_ids.shape:
        raise InvalidValue(
            f"attention_mask has the shape {tuple(attention_mask.shape)}; it must have that of "
            f"input_ids, {tuple(input_ids.shape)}."
        )
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


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    reduction: str = "mean",
    ignore_index: int = IGNORED,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log p(y | x) in nats, to be minimised; equal to ``torch.nn.functional.cross_entropy``.

    logits: (N, C).
    labels: (N,) class numbers, or ``ignore_index`` for a row that doesn't count.
    reduction: "none" returns (N,), with 0 for ignored rows; "sum" adds them up; "mean" divides
    the sum by the number of rows that count or, with ``weight``, by the sum of their weights (a
    weighted mean). The mean is NaN if no row counts.
    weight: (C,), a factor of at least 0 for each class.
    label_smoothing: the share (0 to 1) of the target that is spread evenly over all C classes.
    Raises InvalidValue for any other shape, label, reduction or share.
    Source: Goodfellow et al. 2016, Deep Learning, equation 6.12; smoothing: Szegedy et
    al. 2016, section 7.
    """
    _check_classes(logits, labels, ignore_index, reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise InvalidValue(
            f"label_smoothing is {label_smoothing}; it is a share from 0 to 1 (0.1 is usual)."
        )
    classes = logits.shape[-1]
    weight = logits.new_ones(classes) if weight is None else weight  # (C,)
    if weight.shape != (classes,):
        raise InvalidValue(
            f"weight has the shape {tuple(weight.shape)}; give one factor for each of {classes} "
            f"classes."
        )
    logits = _at_least_float32(logits)  # (N, C)
    weight = weight.to(logits)  # (C,)
    counts = labels != ignore_index  # (N,)
    # gather can't look up -100, so ignored rows look up class 0 and are zeroed at the end.
    targets = labels.masked_fill(~counts, 0).long()  # (N,)
    log_p = logits - torch.logsumexp(logits, dim=-1, keepdim=True)  # (N, C)
    of_target = weight[targets] * log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)  # (N,)
    losses = -(1 - label_smoothing) * of_target  # (N,)
    if label_smoothing > 0:
        losses = losses - label_smoothing * (weight * log_p).mean(dim=-1)  # (N,)
    losses = losses.masked_fill(~counts, 0.0)  # (N,)
    return _reduce(losses, weight[targets] * counts, reduction)


def masked_lm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The masked-language-model loss: the MEAN of -log P(w_i | masked text), in nats, over the
    positions whose label is not -100 (to be minimised).

    logits: (B, T, V).
    labels: (B, T), the original token at each position chosen for prediction and -100 elsewhere,
    including padding. There is no shift: position i predicts token i.
    Returns a scalar, which is NaN if no position has a label.
    Source: Devlin et al. 2019 (BERT), section 3.1, task 1.
    """
    _check_token_shapes(logits, "labels", labels)
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
    reduction: "none", "sum" or "mean", as in ``cross_entropy``. (The paper divides by the number
    of foreground boxes instead.)
    Raises InvalidValue for any other shape, label, reduction or gamma.
    Source: Lin et al. 2017, equation 4 (without the class weight alpha of equation 5), here with
    a softmax over C classes.
    """
    if not gamma >= 0:
        raise InvalidValue(f"gamma is {gamma}; it must be at least 0 (2 is usual).")
    _check_classes(logits, labels, IGNORED, reduction)
    losses = cross_entropy(logits, labels, reduction="none")  # (N,) -log p
    # 1 - p as -expm1(log p), which stays exact when p is almost 1. The floor keeps the gradient
    # finite for gamma < 1, where the slope of x^gamma at 0 is infinite.
    wrong = (-torch.expm1(-losses)).clamp_min(torch.finfo(losses.dtype).tiny)  # (N,)
<<<<<<< HEAD
    return _reduce(wrong**gamma * losses, labels != IGNORED, reduction)
=======
    return _reduce(wrong**gamma * losses, labels != IGNORE, reduction)
>>>>>>> work/tests


def consistency_loss(logits: Tensor, again: Tensor) -> Tensor:
    """How far apart two predictions for the same examples are: half the sum of the
    Kullback-Leibler divergences in both directions, averaged over the examples, in nats (at
    least 0; to be minimised).

    logits, again: (N, C), the outputs of two passes of one model, each with its own dropout mask.
    Raises InvalidValue for any other shape.
    Source: Liang et al. 2021 (R-Drop), equation 2.
    """
    if logits.dim() != 2 or logits.shape != again.shape:
        raise InvalidValue(
            f"logits {tuple(logits.shape)} and {tuple(again.shape)} do not match; pass two "
            f"tensors of the same shape (N, C)."
        )
    log_p, log_q = (torch.log_softmax(_at_least_float32(z), dim=-1) for z in (logits, again))
    # KL(p, q) + KL(q, p) = the sum over classes of (p - q) (log p - log q).
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=-1).mean() / 2  # scalar


def perplexity(mean_nats: float | Tensor) -> float:
    """exp of a mean loss in nats per token: 1 for a model that is always certain and right, V for
    a blind guess.

    mean_nats: the mean over ALL tokens. Averaging the perplexities of batches gives another number.
    Source: Jelinek et al. 1977.
    """
    return math.exp(float(mean_nats))


def bits_per_byte(total_nats: float | Tensor, number_of_bytes: int) -> float:
    """The total loss of a text in bits, divided by its length in bytes (UTF-8).

    Unlike perplexity, this can be compared between models with different tokenizers, because
    the number of bytes doesn't depend on how the text is cut into tokens.
    total_nats: the SUM of -log P over the tokens of the text (at least 0).
    Raises InvalidValue if number_of_bytes is below 1.
    Source: Gao et al. 2020 (The Pile), section 3.1.
    """
    if number_of_bytes < 1:
        raise InvalidValue(f"number_of_bytes is {number_of_bytes}; it must be at least 1.")
    return float(total_nats) / (math.log(2) * number_of_bytes)


def unigram_entropy(ids: Tensor) -> float:
    """The entropy -sum p(w) log p(w) of the token frequencies, in nats per token (0 to log V).

    No model that ignores the context can reach a lower mean loss on the same tokens, so this is
    the first bar for a language model to clear.
    ids: token ids of any shape (tensor, array or list).
    Raises InvalidValue if there are no tokens.
    Source: Shannon 1948, section 6.
    """
    ids = torch.as_tensor(ids).flatten()  # (N,)
    if ids.numel() == 0:
        raise InvalidValue("ids is empty; an entropy needs at least one token.")
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
    Raises InvalidValue for a step below 1, betas outside 0 <= beta < 1, or tensors of different
    shapes.
    Source: Loshchilov & Hutter 2019, algorithm 2; moments and bias correction: Kingma & Ba 2015,
    algorithm 1.
    """
    if step < 1:
        raise InvalidValue(
            f"step is {step}; the first step is number 1 (bias correction needs it)."
        )
    if not all(0 <= beta < 1 for beta in betas):
        raise InvalidValue(
            f"betas are {betas}; each must be at least 0 and below 1 (0.9 and 0.999 are usual)."
        )
    shapes = [tuple(t.shape) for t in (parameter, gradient, first_moment, second_moment)]
    if len(set(shapes)) > 1:
        raise InvalidValue(f"parameter, gradient and moments differ in shape: {shapes}.")
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


def _reduce(losses: Tensor, counts: Tensor, reduction: str) -> Tensor:
    """``losses`` (N,) as they are, added up, or averaged with the weights ``counts`` (N,)."""
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / counts.sum()


def _check_token_shapes(logits: Tensor, name: str, tokens: Tensor) -> None:
    if logits.dim() != 3 or logits.shape[:2] != tokens.shape:
        raise InvalidValue(
            f"logits {tuple(logits.shape)} and {name} {tuple(tokens.shape)} do not match; "
            f"pass logits of shape (B, T, V) with {name} of shape (B, T)."
        )


def _check_classes(logits: Tensor, labels: Tensor, ignore_index: int, reduction: str) -> None:
    if reduction not in ("none", "sum", "mean"):
        raise InvalidValue(f"reduction is {reduction!r}; choose 'none', 'sum' or 'mean'.")
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise InvalidValue(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not match; "
            f"pass logits of shape (N, C) with labels of shape (N,)."
        )
    outside = (labels != ignore_index) & ((labels < 0) | (labels >= logits.shape[-1]))  # (N,)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise InvalidValue(
            f"label {int(labels[row])} in row {row} is outside the {logits.shape[-1]} classes; "
            f"use 0 to {logits.shape[-1] - 1}, or {ignore_index} for a row that must not count."
        )
