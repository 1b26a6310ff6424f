"""The course's formulas as functions on tensors, written with logsumexp and gather.

Conventions, everywhere in this module:

- logarithms are natural, so that losses and entropies are in nats (divide by ln 2 for bits);
- a log-likelihood is at most 0 and is maximised, a loss is at least 0 and is minimised: the one
  is the other's negative;
- a mean is one sum divided by one count, never a mean of batch means;
- positions that must not count carry the label ``IGNORE`` (-100, as in PyTorch) or a 0 in the
  attention mask;
- half-precision logits are raised to float32 first.

Shapes: N examples, C classes, B texts, T tokens a text, V words in the vocabulary.
"""

import math

import torch
from torch import Tensor

from helpers.errors import InvalidValue

IGNORE = -100


def token_log_probabilities(
    logits: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """log P(w_i | w_<i) of every token but the first, in nats.

    logits: (B, T, V), the model's output at each position. The logits at position i - 1 predict
    token i, hence the shift by one.
    input_ids: (B, T) the tokens themselves.
    attention_mask: (B, T) 1 for a token, 0 for padding (on either side). A token counts if it
    and its predecessor are real; every other entry of the result is exactly 0.
    Returns (B, T - 1), each entry at most 0: column j belongs to token j + 1.
    Raises InvalidValue if the shapes do not match.
    Source: Radford et al. 2018 (GPT), equation 1: one term of the sum.
    """
    _require(
        logits.dim() == 3 and logits.shape[:2] == input_ids.shape,
        f"logits {tuple(logits.shape)} and input_ids {tuple(input_ids.shape)} do not match; "
        f"pass logits of shape (B, T, V) with input_ids of shape (B, T)",
    )
    logits = _at_least_float32(logits)[:, :-1]  # (B, T - 1, V) what position i - 1 says
    targets = input_ids[:, 1:].long()  # (B, T - 1) about token i
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)  # (B, T - 1)
    log_probabilities = chosen - torch.logsumexp(logits, dim=-1)  # (B, T - 1)
    if attention_mask is None:
        return log_probabilities
    _require(
        attention_mask.shape == input_ids.shape,
        f"attention_mask {tuple(attention_mask.shape)} must have the shape of input_ids, "
        f"{tuple(input_ids.shape)}",
    )
    real = attention_mask.bool()  # (B, T)
    counts = real[:, 1:] & real[:, :-1]  # (B, T - 1)
    return log_probabilities.masked_fill(~counts, 0.0)  # (B, T - 1)


def log_likelihood(
    logits: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """The pre-training objective: the SUM over i >= 2 of log P(w_i | w_<i), in nats.

    Shapes, mask and errors as in ``token_log_probabilities``. Returns (B,), each at most 0
    (to be maximised). The first token has no context and no term. Its negative divided by the
    number of terms is the loss that ``model(input_ids, labels=input_ids)`` reports.
    Source: Radford et al. 2018 (GPT), equation 1.
    """
    return token_log_probabilities(logits, input_ids, attention_mask).sum(dim=-1)  # (B,)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    reduction: str = "mean",
    ignore_index: int = IGNORE,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log p(y | x) in nats, to be minimised; equals ``torch.nn.functional.cross_entropy``.

    logits: (N, C). labels: (N,) class numbers, or ``ignore_index`` where nothing counts.
    reduction: "none" gives (N,) with 0 where ignored; "sum" adds; "mean" divides the sum by the
    number of labels that count or, with ``weight``, by the sum of their weights (so a weighted
    mean; not a number if nothing counts).
    weight: (C,) factor of each class, at least 0.
    label_smoothing: the share (0 to 1) of the target spread evenly over all C classes.
    Raises InvalidValue for other shapes, labels, reductions or shares.
    Source: Goodfellow et al. 2016, Deep Learning, equation 6.12; smoothing: Szegedy et
    al. 2016, section 7.
    """
    _check_classes(logits, labels, ignore_index, reduction)
    _require(
        0.0 <= label_smoothing <= 1.0,
        f"label_smoothing is {label_smoothing}; it is a share from 0 to 1 (0.1 is usual)",
    )
    classes = logits.shape[-1]
    weight = logits.new_ones(classes) if weight is None else weight  # (C,)
    _require(
        weight.shape == (classes,),
        f"weight has shape {tuple(weight.shape)}; give one factor for each of {classes} classes",
    )
    logits = _at_least_float32(logits)  # (N, C)
    weight = weight.to(logits)  # (C,)
    counts = labels != ignore_index  # (N,)
    targets = labels.masked_fill(~counts, 0).long()  # (N,) a harmless class where ignored
    log_p = logits - torch.logsumexp(logits, dim=-1, keepdim=True)  # (N, C)
    of_target = weight[targets] * log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)  # (N,)
    losses = -(1 - label_smoothing) * of_target  # (N,)
    if label_smoothing > 0:
        losses = losses - label_smoothing * (weight * log_p).mean(dim=-1)  # (N,)
    losses = losses.masked_fill(~counts, 0.0)  # (N,)
    return _reduce(losses, weight[targets] * counts, reduction)


def masked_lm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The masked-language-model loss: the MEAN of -log P(w_i | the masked text), in nats, over
    the positions whose label is not -100 (to be minimised).

    logits: (B, T, V). labels: (B, T), the original token where one was chosen for prediction and
    -100 elsewhere, padding included. There is no shift: position i predicts token i. Returns a
    scalar, not a number if no position is labelled.
    Source: Devlin et al. 2019 (BERT), section 3.1, task 1.
    """
    _require(
        logits.dim() == 3 and logits.shape[:2] == labels.shape,
        f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not match; "
        f"pass logits of shape (B, T, V) with labels of shape (B, T)",
    )
    return cross_entropy(logits.flatten(0, 1), labels.flatten())  # (B * T, V), (B * T,)


def focal_loss(
    logits: Tensor, labels: Tensor, gamma: float = 2.0, reduction: str = "mean"
) -> Tensor:
    """-(1 - p)^gamma log p in nats, p the probability of the right class; to be minimised.

    logits: (N, C). labels: (N,) class numbers or -100. gamma: at least 0; 0 is cross-entropy,
    more makes easy examples count less. reduction: "none", "sum" or "mean", as in
    ``cross_entropy`` (the paper instead divides by the number of its foreground boxes).
    Raises InvalidValue for other shapes, labels, reductions or gammas.
    Source: Lin et al. 2017, equation 4 (without the class weight alpha of equation 5), here
    with a softmax over C classes.
    """
    _require(gamma >= 0, f"gamma is {gamma}; it must be at least 0 (2 is usual)")
    _check_classes(logits, labels, IGNORE, reduction)
    losses = cross_entropy(logits, labels, reduction="none")  # (N,) -log p
    # 1 - p, exact near p = 1; the floor keeps the gradient finite when gamma < 1.
    wrong = (-torch.expm1(-losses)).clamp_min(torch.finfo(losses.dtype).tiny)  # (N,)
    return _reduce(wrong**gamma * losses, labels != IGNORE, reduction)


def consistency_loss(logits: Tensor, again: Tensor) -> Tensor:
    """How far two predictions for the same examples are apart: the MEAN over examples of half
    the sum of both Kullback-Leibler divergences, in nats (0 or above; to be minimised).

    logits, again: (N, C), what a model with dropout said in two passes, each with its own mask.
    Raises InvalidValue for other shapes. Source: Liang et al. 2021 (R-Drop), equation 2.
    """
    _require(
        logits.dim() == 2 and logits.shape == again.shape,
        f"logits {tuple(logits.shape)} and {tuple(again.shape)} do not match; pass two of the "
        f"same shape (N, C)",
    )
    log_p, log_q = (torch.log_softmax(_at_least_float32(z), dim=-1) for z in (logits, again))
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=-1).mean() / 2  # scalar


def perplexity(mean_nats: float | Tensor) -> float:
    """exp of a mean loss in nats per token: from 1 (always certain) up; V means a blind guess.

    Only the mean over ALL tokens may go in: the mean of batch perplexities is another number.
    Source: Jelinek et al. 1977.
    """
    return math.exp(float(mean_nats))


def bits_per_byte(total_nats: float | Tensor, number_of_bytes: int) -> float:
    """A text's summed loss in bits, divided by the bytes of its UTF-8 form.

    total_nats: the SUM of -log P over the text's tokens (at least 0). Unlike perplexity it can
    be compared between models with different tokenizers. Raises InvalidValue without bytes.
    Source: Gao et al. 2020 (The Pile), section 3.1.
    """
    _require(number_of_bytes >= 1, f"number_of_bytes is {number_of_bytes}; it must be at least 1")
    return float(total_nats) / (math.log(2) * number_of_bytes)


def unigram_entropy(ids: Tensor) -> float:
    """Entropy -sum p(w) log p(w) of the tokens' frequencies, in nats per token (0 to log V).

    ids: token ids of any shape (tensor, array or list). No model that ignores the context can
    have a lower mean loss on these very tokens: a first bar for a language model.
    Raises InvalidValue without tokens. Source: Shannon 1948, section 6.
    """
    ids = torch.as_tensor(ids).flatten()  # (N,)
    _require(ids.numel() > 0, "ids is empty; an entropy needs at least one token")
    p = torch.unique(ids, return_counts=True)[1].double() / ids.numel()  # (V,) those that occur
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

    All tensors have one shape and are left unchanged; the moments start at 0 and ``step`` at 1.
    Weight decay is decoupled: it shrinks the parameter by ``learning_rate * weight_decay`` and
    never enters the moments. (The paper's lambda is ``learning_rate * weight_decay`` here, as in
    ``torch.optim.AdamW``.) Raises InvalidValue for a step below 1, betas outside 0 <= beta < 1,
    or tensors of different shapes.
    Source: Loshchilov & Hutter 2019, algorithm 2; moments and bias correction: Kingma & Ba 2015,
    algorithm 1.
    """
    _require(step >= 1, f"step is {step}; the first step is number 1 (bias correction needs it)")
    _require(
        all(0 <= beta < 1 for beta in betas),
        f"betas are {betas}; each must be at least 0 and below 1 (0.9 and 0.999 are usual)",
    )
    shapes = [tuple(t.shape) for t in (parameter, gradient, first_moment, second_moment)]
    _require(len(set(shapes)) == 1, f"parameter, gradient and moments differ in shape: {shapes}")
    beta1, beta2 = betas
    m = beta1 * first_moment + (1 - beta1) * gradient  # as parameter: mean of gradients
    v = beta2 * second_moment + (1 - beta2) * gradient**2  # as parameter: mean of their squares
    m_hat = m / (1 - beta1**step)  # as parameter: undoes the start at 0
    v_hat = v / (1 - beta2**step)  # as parameter
    decayed = parameter * (1 - learning_rate * weight_decay)  # as parameter
    return decayed - learning_rate * m_hat / (v_hat.sqrt() + epsilon), m, v


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _reduce(losses: Tensor, counts: Tensor, reduction: str) -> Tensor:
    """losses, counts: (N,); what ``reduction`` asks for, the mean being sum over counts."""
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / counts.sum()


def _check_classes(logits: Tensor, labels: Tensor, ignore_index: int, reduction: str) -> None:
    _require(
        reduction in ("none", "sum", "mean"),
        f"reduction is {reduction!r}; choose 'none', 'sum' or 'mean'",
    )
    _require(
        logits.dim() == 2 and labels.shape == logits.shape[:1],
        f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not match; "
        f"pass logits of shape (N, C) with labels of shape (N,)",
    )
    outside = (labels != ignore_index) & ((labels < 0) | (labels >= logits.shape[-1]))  # (N,)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise InvalidValue(
            f"label {int(labels[row])} in row {row} is outside the {logits.shape[-1]} classes; "
            f"use 0 to {logits.shape[-1] - 1}, or {ignore_index} for a row that must not count."
        )


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InvalidValue(message + ".")
