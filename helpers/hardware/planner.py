"""What a training step will take, from a model's configuration alone: bytes of weights, gradients,
optimiser state and activations, the moment at which most are in use, and the floating-point
operations.

No weights are loaded. ``architectures`` writes the model's operations on a tape, ``replay`` runs it
on paper. Checked against torch's own memory tracker on the CPU; for CUDA the sizes of the tensors
are the same rules' prediction, to which a real card adds its context and what its kernels use.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from helpers.errors import InvalidValue, unknown_name
from helpers.hardware.architectures import HEADS, Writer
from helpers.hardware.replay import Replay
from helpers.hardware.shapes import MODELS, model_config
from helpers.hardware.tape import WIDTHS, Tape

__all__ = [
    "DEVICES",
    "KINDS",
    "MODELS",
    "OPTIMIZERS",
    "PRECISIONS",
    "Moment",
    "Plan",
    "model_config",
    "plan",
]

KINDS = ("parameters", "optimizer", "gradients", "activations", "temporary")
OPTIMIZERS = {"adamw": 2, "momentum": 1, "sgd": 0}  # numbers of state for each trained weight
PRECISIONS = tuple(WIDTHS)
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Moment:
    """The worst moment of one place of a step, in bytes of each of KINDS.

    where: such as "forward layer 3", "backward layer 3", "update".
    """

    where: str
    parameters: int
    optimizer: int
    gradients: int
    activations: int
    temporary: int

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return sum(getattr(self, kind) for kind in KINDS)


@dataclass(frozen=True)
class Plan:
    """What one optimiser step takes; bytes, and FLOPs with a multiply-add as 2.

    settings: the other arguments of ``plan``; with another batch_size they make a plan beside it.
    parameter_count: numbers in the weights, shared ones once; trainable_count: those trained.
    parameters, gradients, optimizer_state: bytes. activations: bytes kept for the backward pass at
        the end of one micro-batch's forward pass, logits included.
    moments: the worst moment of every place of a step, in order, from the second step on.
    first_peak: bytes at the worst moment of the first step: AdamW makes its state at its end.
    inference_peak: bytes at the worst moment of the same batch without gradients.
    forward_flops, flops: of the forward passes, and of the step: backward, and what checkpointing
        does again, included. Matrix products alone are counted (PaLM, Chowdhery et al. 2022,
        appendix B): looking up embeddings, softmax, norms and the optimiser are not.
    matrix_parameters: the weights that every token is multiplied with.
    """

    model: str
    settings: Mapping[str, Any]
    batch_size: int
    sequence_length: int
    precision: str
    parameter_count: int
    trainable_count: int
    parameters: int
    gradients: int
    optimizer_state: int
    activations: int
    moments: tuple[Moment, ...]
    first_peak: int
    inference_peak: int
    forward_flops: int
    flops: int
    matrix_parameters: int

    @property
    def peak(self) -> int:
        """Bytes in use at the worst moment of a step, from the second step on."""
        return max(moment.total for moment in self.moments)

    @property
    def peak_at(self) -> str:
        """Where that moment is."""
        return max(self.moments, key=lambda moment: moment.total).where

    def at_peak(self) -> dict[str, int]:
        """Bytes of each of KINDS at that moment."""
        moment = max(self.moments, key=lambda moment: moment.total)
        return {kind: getattr(moment, kind) for kind in KINDS}

    @property
    def tokens(self) -> int:
        """Tokens of one step, padding included."""
        return self.batch_size * self.sequence_length

    @property
    def update_bytes(self) -> int:
        """Bytes that an update reads and writes: each trained weight, its gradient, its state."""
        return 3 * self.gradients + 2 * self.optimizer_state

    @property
    def rule_of_thumb_flops(self) -> int:
        """6 N D (Kaplan et al. 2020): 2 for the forward pass and 4 for the backward pass, for each
        of N weights and D tokens; without the attention scores."""
        return 6 * self.matrix_parameters * self.tokens


def plan(
    model: Any,
    *,
    batch_size: int,
    sequence_length: int,
    head: str | None = None,
    labels: int = 2,
    precision: str = "fp32",
    weights: str = "fp32",
    optimizer: str = "adamw",
    checkpointing: bool = False,
    accumulation: int = 1,
    lora_rank: int | None = None,
    attention: str = "sdpa",
    dropout: float | None = None,
    attention_dropout: float | None = None,
    padded: bool = False,
    device: str = "cpu",
) -> Plan:
    """What one optimiser step of ``model`` takes: ``output = model(**batch)``, backward from
    ``output.loss`` while ``output`` is held, update, ``zero_grad``; as ``training.fit`` does it.

    model: see ``model_config``. batch_size: texts of one step, shared out over ``accumulation``
        micro-batches. sequence_length: tokens of each text, padding included.
    head: "classifier", "tokens", "questions" or "masked-lm" for BERT, "causal-lm" for GPT-2 and
        Llama; None takes the first that fits. labels: classes of "classifier" and "tokens".
    precision: "fp32", "bf16" or "fp16": of the matrix products, by autocast.
    weights: in which precision they are stored, gradients and optimiser state with them; other
        than "fp32" only together with the same precision.
    optimizer: "adamw" (fused: no working memory), "momentum" or "sgd".
    checkpointing: the layers' activations are made again in the backward pass.
    lora_rank: ``lora.add_lora(model, rank=lora_rank)`` with its default targets; None: all weights.
    attention: "sdpa" or "eager". dropout, attention_dropout: probabilities; None: the
        configuration's, or for attention_dropout ``dropout``. padded: some texts are shorter than
        others, so that attention takes a mask.
    device: "cpu" or "cuda": their kernels keep different things where numbers are dropped.
    Raises InvalidValue for what is unknown or out of range.
    """
    config = model_config(model)
    name = config.model_type if config is model else str(model)
    family = config.model_type
    head = HEADS[family][0] if head is None else head
    for what, value, known in (
        (f"head of {family}", head, HEADS[family]),
        ("precision", precision, PRECISIONS),
        ("precision of the weights", weights, PRECISIONS),
        ("optimizer", optimizer, OPTIMIZERS),
        ("attention", attention, ("sdpa", "eager")),
        ("device", device, DEVICES),
    ):
        if value not in known:
            raise unknown_name(what, str(value), known)
    counts = {"batch_size": batch_size, "sequence_length": sequence_length, "labels": labels,
              "accumulation": accumulation}  # fmt: skip
    if lora_rank is not None:
        counts["lora_rank"] = lora_rank
    for what, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidValue(f"{what} is {value!r}; it must be a whole number, at least 1.")
    if accumulation > batch_size:
        raise InvalidValue(
            f"accumulation is {accumulation}, more than the {batch_size} texts of a batch; give 1 "
            f"to {batch_size}."
        )
    longest = config.max_position_embeddings
    if sequence_length > longest and family != "llama":  # Llama's positions are computed
        raise InvalidValue(f"sequence_length is {sequence_length}; {name} has {longest} positions.")
    if weights != "fp32" and weights != precision:
        raise InvalidValue(
            f"weights are stored in {weights}, but precision is {precision}; make both the same, "
            "or store the weights in fp32."
        )
    dropout, attention_dropout = _dropouts(config, dropout, attention_dropout)
    largest = ceil(batch_size / accumulation)
    tape = Writer(
        Tape(
            autocast=WIDTHS[precision] if precision != weights else None,
            weight_width=WIDTHS[weights],
            cuda=device == "cuda",
        ),
        config,
        largest,
        sequence_length,
        head,
        labels=labels,
        rank=lora_rank,
        eager=attention == "eager",
        padded=padded,
        checkpointing=checkpointing,
        dropout=dropout,
        attention_dropout=attention_dropout,
    ).write()
    run = Replay(tape, accumulated=accumulation > 1).training()
    inference = Replay(tape).inference()
    sizes = [weight.size for weight in tape.weights.values()]
    trained = [weight for weight in tape.weights.values() if weight.trained]
    parameters, gradients = sum(sizes), sum(weight.size for weight in trained)
    state = OPTIMIZERS[optimizer] * gradients
    moments = [
        Moment(where, parameters, state, now[2], now[0], now[1]) for where, now in run.peaks.items()
    ]
    before_update = max(moment.total for moment in moments) - state
    moments.append(Moment("update", parameters, state, gradients, 0, 0))
    return Plan(
        model=name,
        settings={
            "head": head,
            "labels": labels,
            "precision": precision,
            "weights": weights,
            "optimizer": optimizer,
            "checkpointing": checkpointing,
            "accumulation": accumulation,
            "lora_rank": lora_rank,
            "attention": attention,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "padded": padded,
            "device": device,
        },
        batch_size=batch_size,
        sequence_length=sequence_length,
        precision=precision,
        parameter_count=sum(weight.count for weight in tape.weights.values()),
        trainable_count=sum(weight.count for weight in trained),
        parameters=parameters,
        gradients=gradients,
        optimizer_state=state,
        activations=run.kept,
        moments=tuple(moments),
        first_peak=max(before_update, moments[-1].total),
        inference_peak=parameters + max(now[0] for now in inference.peaks.values()),
        forward_flops=inference.flops * batch_size // largest,
        flops=run.flops * batch_size // largest,
        matrix_parameters=tape.product_flops // (2 * largest * sequence_length),
    )


def _dropouts(config: Any, dropout: float | None, attention: float | None) -> tuple[float, float]:
    """The probabilities that are given, or else the configuration's."""
    names = {
        "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
        "gpt2": ("resid_pdrop", "attn_pdrop"),
        "llama": (None, "attention_dropout"),
    }[config.model_type]
    if attention is None:
        attention = getattr(config, names[1]) if dropout is None else dropout
    if dropout is None:
        dropout = getattr(config, names[0]) if names[0] else 0.0
    for what, value in (("dropout", dropout), ("attention_dropout", attention)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise InvalidValue(f"{what} is {value!r}; it must be at least 0 and below 1.")
    return dropout, attention
