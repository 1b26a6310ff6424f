"""What a training step will take, from a model's configuration alone: bytes by kind at every place
of the step, and the floating-point operations.

The model is transformers' own, built without weights on torch's fake tensors, which have sizes but
no data. One step is taken with it under the recorder of ``measure``, so a planned step and a
measured one are the same code; operations come from torch's counter. Memory is linear in the
batch: every other batch lies on the line between two recorded ones.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from helpers.errors import InvalidValue, unknown_name
from helpers.hardware.measure import KINDS, StepMemory, step_memory
from helpers.hardware.published import HEADS, model_config
from helpers.models import lora
from helpers.models.loading import set_dropout

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CHOICES = {
    "precision": tuple(_DTYPES),
    "weights": tuple(_DTYPES),
    "optimizer": ("adamw", "momentum", "sgd"),
    "attention": ("sdpa", "eager"),
    "device": ("cpu", "cuda"),
}
_COUNTS = ("batch_size", "sequence_length", "labels", "accumulation")
_AUTO_CLASSES = {
    "classifier": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "questions": "AutoModelForQuestionAnswering",
    "masked-lm": "AutoModelForMaskedLM",
    "causal-lm": "AutoModelForCausalLM",
}
_BATCHES = (2, 4)  # two points of the line; a single text takes other paths through some kernels
_LENGTHS = (8, 16, 24)  # three points of the parabola of operations over the length


@dataclass(frozen=True)
class StepSettings:
    """How a step is taken.

    batch_size: texts of one step, shared out over ``accumulation`` micro-batches. sequence_length:
        tokens of each text, padding included.
    head: one of HEADS for the model's family; None takes the first. labels: classes of the heads
        "classifier" and "tokens".
    precision: "fp32", "bf16" or "fp16", of the matrix products, by autocast.
    weights: the precision they are stored in, and with them gradients and optimiser state; other
        than "fp32" only together with the same precision.
    optimizer: "adamw" (fused, so without working memory), "momentum" or "sgd".
    checkpointing: the layers' activations are computed again in the backward pass.
    lora_rank: ``lora.add_lora(model, rank=lora_rank)`` with its default targets; None: all weights.
    attention: "sdpa" or "eager". dropout, attention_dropout: probabilities; None: the
        configuration's, or for attention_dropout ``dropout``. padded: some texts are shorter than
        others, so that attention takes a mask.
    device: "cpu" or "cuda". On a GPU, dropout keeps one byte per number and attention runs in one
        kernel. No GPU is needed to plan for one, and none was used to check it: autocast's choices
        are the CPU's, and what a kernel uses inside isn't counted. Take it as an estimate.
    Raises InvalidValue for what is unknown or out of range.
    """

    batch_size: int
    sequence_length: int
    head: str | None = None
    labels: int = 2
    precision: str = "fp32"
    weights: str = "fp32"
    optimizer: str = "adamw"
    checkpointing: bool = False
    accumulation: int = 1
    lora_rank: int | None = None
    attention: str = "sdpa"
    dropout: float | None = None
    attention_dropout: float | None = None
    padded: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                what = "precision of the weights" if name == "weights" else name
                raise unknown_name(what, str(value), known)
        for name in (*_COUNTS, *(["lora_rank"] if self.lora_rank is not None else [])):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidValue(f"{name} is {value!r}; it must be a whole number, at least 1.")
        for name in ("dropout", "attention_dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise InvalidValue(f"{name} is {value!r}; it must be at least 0 and below 1.")
        if self.accumulation > self.batch_size:
            raise InvalidValue(
                f"accumulation is {self.accumulation}, more than the {self.batch_size} texts of a "
                f"batch; give 1 to {self.batch_size}."
            )
        if self.weights not in ("fp32", self.precision):
            raise InvalidValue(
                f"weights are stored in {self.weights}, but precision is {self.precision}; make "
                "both the same, or store the weights in fp32."
            )

    @property
    def micro_batch(self) -> int:
        """Texts of the largest micro-batch."""
        return ceil(self.batch_size / self.accumulation)


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

    parameter_count: numbers in the weights, shared ones once; trainable_count: those trained.
    parameters, gradients, optimizer_state: bytes. activations: bytes kept for the backward pass at
        the end of one micro-batch's forward pass, logits included.
    moments: the worst moment of every place of a step, in order, from the second step on.
    """

    model: str
    settings: StepSettings
    parameter_count: int
    trainable_count: int
    parameters: int
    gradients: int
    optimizer_state: int
    activations: int
    moments: tuple[Moment, ...]
    _shape: str = field(repr=False)

    # The next two are found when somebody asks: what fits on a card takes neither.
    @cached_property
    def flops(self) -> int:
        """Of the whole step: backward, and what checkpointing computes again, included. Matrix
        products alone are counted (PaLM, Chowdhery et al. 2022, appendix B): looking up
        embeddings, softmax, norms and the optimiser are not."""
        return _flops_of_text(self._shape, self.settings) * self.settings.batch_size

    @cached_property
    def inference_peak(self) -> int:
        """Bytes at the worst moment of the same batch without gradients."""
        return _memory(self._shape, self.settings, training=False)[1].peak

    @property
    def _worst(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def peak(self) -> int:
        """Bytes in use at the worst moment of a step, from the second step on."""
        return self._worst.total

    @property
    def peak_at(self) -> str:
        """Where that moment is."""
        return self._worst.where

    def at_peak(self) -> dict[str, int]:
        """Bytes of each of KINDS at that moment."""
        return {kind: getattr(self._worst, kind) for kind in KINDS}

    @property
    def update_bytes(self) -> int:
        """Bytes that an update reads and writes: each trained weight, its gradient, its state."""
        return 3 * self.gradients + 2 * self.optimizer_state


def plan(model: Any, settings: StepSettings | None = None, **changes: Any) -> Plan:
    """What one optimiser step of ``model`` takes: ``output = model(**batch)``, backward from
    ``output.loss`` while ``output`` is held, update, ``zero_grad``; as ``training.fit`` does it.

    model: see ``model_config``. settings, changes: a StepSettings, or its fields by name, or both:
    ``plan("bert-base", batch_size=8, sequence_length=128)``. Raises InvalidValue for what is
    unknown or out of range.
    """
    config, settings = _resolve(model, settings, changes)
    shape = config.to_json_string()
    sizes, memory = _memory(shape, settings, training=True)
    table = np.stack([memory.timeline[kind] for kind in KINDS], axis=1).astype(int)
    places, total = np.array(memory.places), memory.total
    moments = []
    for place in dict.fromkeys(memory.places):
        rows = np.flatnonzero(places == place)
        moments.append(Moment(place, *table[rows[total[rows].argmax()]].tolist()))
    return Plan(
        model=config.model_type if config is model else str(model),
        settings=settings,
        **sizes,
        optimizer_state=moments[-1].optimizer,
        activations=int(memory.timeline["activations"][places == "forward head"][-1]),
        moments=tuple(moments),
        _shape=shape,
    )


def flops(model: Any, settings: StepSettings | None = None, **changes: Any) -> int:
    """``plan(...).flops`` without the memory: at once, for many batches and lengths."""
    config, settings = _resolve(model, settings, changes)
    return _flops_of_text(config.to_json_string(), settings) * settings.batch_size


def build_model(model: Any, settings: StepSettings) -> nn.Module:
    """transformers' model of this shape as ``settings`` want it, in training mode, with random
    weights, on the current default device (on "meta" it takes no memory)."""
    import transformers

    config = _config(model_config(model).to_json_string())
    config.num_labels = settings.labels
    separate = settings.attention_dropout
    set_dropout(config, settings.dropout, settings.dropout if separate is None else separate)
    if settings.checkpointing:
        config.use_cache = False
    head = settings.head or HEADS[config.model_type][0]
    built = getattr(transformers, _AUTO_CLASSES[head]).from_config(
        config, attn_implementation=settings.attention, dtype=_DTYPES[settings.weights]
    )
    if head == "causal-lm":
        built.loss_type = "ForCausalLM"  # transformers can't guess it for GPT-2
    if settings.checkpointing:
        _checkpoint(built)
    if settings.lora_rank is not None:
        built = lora.add_lora(built, rank=settings.lora_rank)
    return built.train()


def _resolve(
    model: Any, settings: StepSettings | None, changes: dict[str, Any]
) -> tuple[Any, StepSettings]:
    """The configuration, and the settings with the head filled in."""
    config = model_config(model)
    settings = replace(settings, **changes) if settings else StepSettings(**changes)
    family, longest = config.model_type, config.max_position_embeddings
    head = settings.head or HEADS[family][0]
    if head not in HEADS[family]:
        raise unknown_name(f"head of {family}", head, HEADS[family])
    if settings.sequence_length > longest and family != "llama":  # Llama's positions are computed
        raise InvalidValue(
            f"sequence_length is {settings.sequence_length}; the model has {longest} positions."
        )
    return config, replace(settings, head=head)


def _checkpoint(model: Any, **options: Any) -> None:
    with warnings.catch_warnings():  # transformers has a new name for it in its later versions
        warnings.simplefilter("ignore", FutureWarning)
        options = {"use_reentrant": False, **options}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def _memory(
    shape: str, settings: StepSettings, *, training: bool
) -> tuple[dict[str, int], StepMemory]:
    """The model's sizes, and the memory of its largest micro-batch: recorded, or on the line
    between two that were."""
    texts, (low, high) = settings.micro_batch, _BATCHES
    # What makes no difference to memory is left out, so that fewer steps have to be recorded.
    same = replace(
        settings,
        batch_size=2,
        accumulation=min(settings.accumulation, 2),
        precision="bf16" if settings.precision == "fp16" else settings.precision,
        weights="bf16" if settings.weights == "fp16" else settings.weights,
    )
    if texts < low:
        sizes, (found,) = _record(shape, same, (texts,), training)
        return sizes, found
    sizes, (a, b) = _record(shape, same, _BATCHES, training)
    assert a.places == b.places, "the operations of a step depend on its batch"
    share = (texts - low) / (high - low)
    line = {k: np.rint(a.timeline[k] + share * (b.timeline[k] - a.timeline[k])) for k in KINDS}
    return sizes, StepMemory(line, a.places)


@lru_cache(maxsize=512)
def _record(
    shape: str, settings: StepSettings, batches: tuple[int, ...], training: bool
) -> tuple[dict[str, int], list[StepMemory]]:
    """The sizes of a model, and its memory for each number of texts in ``batches``."""
    with _fake_model(shape, settings) as model:
        weights = list(model.parameters())
        trained = [p for p in weights if p.requires_grad]
        sizes = {
            "parameter_count": sum(p.numel() for p in weights),
            "trainable_count": sum(p.numel() for p in trained),
            "parameters": sum(p.nbytes for p in weights),
            "gradients": sum(p.nbytes for p in trained),
        }
        optimizer = {
            "adamw": lambda: torch.optim.AdamW(trained, fused=True),
            "momentum": lambda: torch.optim.SGD(trained, momentum=0.9),
            "sgd": lambda: torch.optim.SGD(trained),
        }[settings.optimizer]()
        mixed = torch.autocast(
            "cpu", torch.bfloat16, enabled=settings.precision != settings.weights
        )

        def step() -> None:
            with mixed:
                output = model(**batch)
            output.loss.backward()
            del output
            optimizer.step()
            optimizer.zero_grad()

        def infer() -> None:
            with torch.no_grad(), mixed:
                model(**batch)

        if training:
            for parameter in trained:  # the optimiser makes its state in its first step
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        memories = []
        for texts in batches:
            batch = _batch(settings, texts)
            for parameter in trained:  # an earlier micro-batch left its gradients
                left = training and settings.accumulation > 1
                parameter.grad = torch.zeros_like(parameter) if left else None
            if training:
                memories.append(step_memory(step, model, optimizer, warm_up=0))
            else:
                memories.append(step_memory(infer, model.eval(), warm_up=0))
        return sizes, memories


@contextmanager
def _fake_model(shape: str, settings: StepSettings) -> Iterator[Any]:
    """The model; inside, every new tensor is a fake one."""
    with torch.device("meta"):  # because peft does not work on fake tensors
        model: Any = build_model(_config(shape), settings)
    on_gpu = settings.device == "cuda"
    if on_gpu and settings.checkpointing:  # a backward pass leaves torch's function modes
        _checkpoint(model, context_fn=lambda: (nullcontext(), _GpuKernels()))
    gpu = _GpuKernels() if on_gpu else nullcontext()
    with FakeTensorMode(allow_non_fake_inputs=True), gpu:
        model.to_empty(device="cpu")
        model.tie_weights()
        yield model


def _config(shape: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(**json.loads(shape))


def _batch(settings: StepSettings, texts: int) -> dict[str, Tensor]:
    ids = torch.zeros(texts, settings.sequence_length, dtype=torch.long)
    batch = {"input_ids": ids}
    if settings.padded:
        batch["attention_mask"] = torch.ones_like(ids)
    if settings.head == "questions":
        return batch | {"start_positions": ids[:, 0], "end_positions": ids[:, 0]}
    return batch | {"labels": ids[:, 0] if settings.head == "classifier" else ids.clone()}


def _flops_of_text(shape: str, settings: StepSettings) -> int:
    """Of a whole step, for one text: linear in the layers, a parabola over the length."""
    only = {
        name: getattr(settings, name) for name in ("head", "labels", "checkpointing", "lora_rank")
    }
    layers, place = _config(shape).num_hidden_layers, Fraction(settings.sequence_length - 8, 8)
    points = []
    for length in _LENGTHS:
        # Eager attention: torch's counter misses a part of the fused kernels' products.
        step = StepSettings(1, length, attention="eager", optimizer="sgd", dropout=0.0, **only)
        one, two = (_count_flops(shape, number, step) for number in (1, 2))
        points.append(one + (layers - 1) * (two - one))
    a, b, c = points
    return int(a + place * (b - a) + place * (place - 1) / 2 * (c - 2 * b + a))


@lru_cache(maxsize=512)
def _count_flops(shape: str, layers: int, settings: StepSettings) -> int:
    config, counter = _config(shape), FlopCounterMode(display=False)
    config.num_hidden_layers = layers
    with torch.device("meta"):  # as good as fake tensors here, and twice as fast
        model, batch = build_model(config, settings), _batch(settings, 1)
        with counter:
            model(**batch).loss.backward()
    return counter.get_total_flops()


class _GpuKernels(TorchFunctionMode):
    """Dropout and attention as a GPU does them: what they keep for the backward pass differs from
    the CPU's kernels, and fake tensors would choose by the device, which is the CPU here."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.dropout:
            return _gpu_dropout(*args, **kwargs or {})
        if func is nn.functional.scaled_dot_product_attention:
            return _gpu_attention(*args, **kwargs or {})
        return func(*args, **kwargs or {})


def _gpu_dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    return torch.ops.aten.native_dropout(x, p, True)[0] if training and p else x


def _gpu_attention(
    *tensors: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False, **_: Any
) -> Any:
    query, key, value = tensors
    if attn_mask is None:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention
        return kernel(query, key, value, dropout_p, is_causal)[0]
    bias = torch.zeros(attn_mask.shape, dtype=query.dtype).masked_fill_(attn_mask, -torch.inf)
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    bias = bias.expand(-1, query.shape[1], -1, -1)
    return kernel(query, key, value, bias, True, dropout_p, is_causal)[0]
