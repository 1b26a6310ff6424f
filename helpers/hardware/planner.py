"""What a training step will take, from a model's configuration alone: bytes by kind at every place
of the step, and the floating-point operations.

The model is transformers' own, built without weights on torch's fake tensors, which have sizes but
no data. One step is taken with it under the recorder of ``measure``, so a planned step and a
measured one are the same code; operations come from torch's counter.

Two things keep it fast. Memory is linear in the batch: every other batch lies on the line between
two recorded ones. And the layers of a model are alike: a deep one is recorded with four layers, and
the others are added.
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
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from helpers.errors import InvalidValue, unknown_name
from helpers.hardware.measure import KINDS, StepMemory, blocks_of, step_memory
from helpers.hardware.published import HEADS, MODELS, model_config
from helpers.models import lora

__all__ = [
    "HEADS", "KINDS", "MODELS", "Moment", "Plan", "StepSettings", "build_model", "flops",
    "model_config", "plan",
]  # fmt: skip

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
_DROPOUTS = ("hidden_dropout_prob", "resid_pdrop", "embd_pdrop")
_ATTENTION_DROPOUTS = ("attention_probs_dropout_prob", "attn_pdrop", "attention_dropout")
_LAYERS = 4  # the first, the last, and two between, whose difference is what another layer adds
_BATCHES = (2, 4)  # two points of the line; a single text takes other paths through some kernels
_LENGTHS = (8, 16, 24)  # three points of the parabola of operations over the length
_GRADIENTS, _ACTIVATIONS = KINDS.index("gradients"), KINDS.index("activations")


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
    inference_peak: bytes at the worst moment of the same batch without gradients.
    forward_flops, flops: of the forward passes, and of the step: backward, and what checkpointing
        computes again, included. Matrix products alone are counted (PaLM, Chowdhery et al. 2022,
        appendix B): looking up embeddings, softmax, norms and the optimiser are not.
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
    inference_peak: int
    _shape: str = field(repr=False)

    # Counted when somebody asks: what fits on a card, and how large a batch, need memory alone.
    @cached_property
    def _of_text(self) -> list[int]:
        return _flops_of_text(self._shape, self.settings)

    @property
    def forward_flops(self) -> int:
        """Of the forward passes of a step."""
        return self._of_text[0] * self.settings.batch_size

    @property
    def flops(self) -> int:
        """Of a whole step."""
        return self._of_text[-1] * self.settings.batch_size

    @property
    def matrix_parameters(self) -> int:
        """The weights that every token is multiplied with."""
        return self._of_text[1] // (2 * self.settings.sequence_length)

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
    def first_peak(self) -> int:
        """Bytes at the worst moment of the first step: AdamW makes its state at its end."""
        *earlier, update = self.moments
        return max(update.total, *(moment.total - moment.optimizer for moment in earlier))

    @property
    def tokens(self) -> int:
        """Tokens of one step, padding included."""
        return self.settings.batch_size * self.settings.sequence_length

    @property
    def update_bytes(self) -> int:
        """Bytes that an update reads and writes: each trained weight, its gradient, its state."""
        return 3 * self.gradients + 2 * self.optimizer_state

    @property
    def rule_of_thumb_flops(self) -> int:
        """6 N D (Kaplan et al. 2020): 2 for the forward pass and 4 for the backward pass, for each
        of N weights and D tokens; without the attention scores."""
        return 6 * self.matrix_parameters * self.tokens


def plan(model: Any, settings: StepSettings | None = None, **changes: Any) -> Plan:
    """What one optimiser step of ``model`` takes: ``output = model(**batch)``, backward from
    ``output.loss`` while ``output`` is held, update, ``zero_grad``; as ``training.fit`` does it.

    model: see ``model_config``. settings, changes: a StepSettings, or its fields by name, or both:
    ``plan("bert-base", batch_size=8, sequence_length=128)``. Raises InvalidValue for what is
    unknown or out of range.
    """
    config, settings = _resolve(model, settings, changes)
    shape = config.to_json_string()
    found = _record_of_batch(shape, settings)
    extra = config.num_hidden_layers - found.layers
    places = _deepen(found.step, extra, found.always, found.cache)
    weights = found.always * (np.array(KINDS) == "parameters")
    inference = _deepen(found.inference, extra, weights, 0)
    counts = {key: found.sizes[key] + extra * found.layer[key] for key in found.sizes}
    return Plan(
        model=config.model_type if config is model else str(model),
        settings=settings,
        **counts,
        optimizer_state=int(places["update"][KINDS.index("optimizer")]),
        activations=int(places[_END_OF_FORWARD][_ACTIVATIONS]),
        moments=tuple(
            Moment(where, *map(int, bytes_))
            for where, bytes_ in places.items()
            if where != _END_OF_FORWARD
        ),
        inference_peak=int(max(bytes_.sum() for bytes_ in inference.values())),
        _shape=shape,
    )


def flops(model: Any, settings: StepSettings | None = None, **changes: Any) -> int:
    """``plan(...).flops`` without the memory: at once, for many batches and lengths."""
    config, settings = _resolve(model, settings, changes)
    of_text = _flops_of_text(config.to_json_string(), settings)
    return of_text[-1] * settings.batch_size


def build_model(model: Any, settings: StepSettings) -> nn.Module:
    """transformers' model of this shape as ``settings`` want it, in training mode, with random
    weights, on the current default device (on "meta" it takes no memory)."""
    import transformers

    config = _config(model_config(model).to_json_string())
    config.num_labels = settings.labels
    attention_dropout = settings.attention_dropout
    if attention_dropout is None:
        attention_dropout = settings.dropout
    for names, value in ((_DROPOUTS, settings.dropout), (_ATTENTION_DROPOUTS, attention_dropout)):
        for name in names:
            if value is not None and hasattr(config, name):
                setattr(config, name, value)
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


def _checkpoint(model: nn.Module, **options: Any) -> None:
    with warnings.catch_warnings():  # transformers has a new name for it in its later versions
        warnings.simplefilter("ignore", FutureWarning)
        options = {"use_reentrant": False, **options}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


@dataclass(frozen=True)
class _Record:
    """Of a model with few ``layers``: the sizes of all of it and of one layer, the bytes of each of
    KINDS that one more layer holds ``always``, the bytes of its keys and values that the model's
    output holds until the backward pass is over, and the memory of a step and of inference."""

    layers: int
    sizes: dict[str, int]
    layer: dict[str, int]
    always: np.ndarray
    cache: float
    step: StepMemory
    inference: StepMemory


def _record_of_batch(shape: str, settings: StepSettings) -> _Record:
    """That of the largest micro-batch, from one or two other batches."""
    texts, (low, high) = settings.micro_batch, _BATCHES
    # What makes no difference to memory is left out, so that fewer steps have to be recorded.
    same = replace(
        settings,
        batch_size=2,
        accumulation=min(settings.accumulation, 2),
        precision="bf16" if settings.precision == "fp16" else settings.precision,
        weights="bf16" if settings.weights == "fp16" else settings.weights,
    )
    if texts <= low:
        return _record(shape, same, texts)
    first, second = _record(shape, same, low), _record(shape, same, high)

    def on_the_line(a: StepMemory, b: StepMemory) -> StepMemory:
        assert a.places == b.places, "the operations of a step depend on its batch"
        share = (texts - low) / (high - low)
        return StepMemory(
            {k: np.rint(a.timeline[k] + share * (b.timeline[k] - a.timeline[k])) for k in KINDS},
            a.places,
        )

    return replace(
        first,
        cache=first.cache * texts / low,
        step=on_the_line(first.step, second.step),
        inference=on_the_line(first.inference, second.inference),
    )


@lru_cache(maxsize=512)
def _record(shape: str, settings: StepSettings, texts: int) -> _Record:
    with _fake_model(shape, _LAYERS, settings) as model:
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = {
            "adamw": lambda: torch.optim.AdamW(trained, fused=True),
            "momentum": lambda: torch.optim.SGD(trained, momentum=0.9),
            "sgd": lambda: torch.optim.SGD(trained),
        }[settings.optimizer]()
        batch, mixed = _batch(settings, texts), settings.precision != settings.weights
        cache = 0

        def step() -> None:
            nonlocal cache
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                output = model(**batch)
            cache = _cache_bytes(output)
            output.loss.backward()
            del output
            optimizer.step()
            optimizer.zero_grad()

        def infer() -> None:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                model(**batch)

        for parameter in trained:  # the optimiser makes its state in its first step
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        if settings.accumulation == 1:  # or else an earlier micro-batch left its gradients
            optimizer.zero_grad()
        taken = step_memory(step, model, optimizer, warm_up=0)
        model.eval()
        blocks = blocks_of(model)
        layer = _sizes_of(blocks[-1])
        state = [optimizer.state.get(p, {}) for p in blocks[-1].parameters()]
        always = {
            "parameters": layer["parameters"],
            "optimizer": sum(v.nbytes for s in state for v in s.values() if v is not None),
            "gradients": layer["gradients"] if settings.accumulation > 1 else 0,
        }
        return _Record(
            layers=len(blocks),
            sizes=_sizes_of(model),
            layer=layer,
            always=np.array([always.get(kind, 0) for kind in KINDS]),
            cache=cache,
            step=taken,
            inference=step_memory(infer, model, warm_up=0),
        )


def _cache_bytes(output: Any) -> int:
    """Of the keys and values of one layer that a model's output holds."""
    if not getattr(output, "past_key_values", None):
        return 0
    layer = output.past_key_values.layers[-1]
    return layer.keys.nbytes + layer.values.nbytes


@contextmanager
def _fake_model(shape: str, layers: int, settings: StepSettings) -> Iterator[nn.Module]:
    """The model with at most ``layers`` layers. Inside, every new tensor is a fake one."""
    config = _config(shape)
    config.num_hidden_layers = min(layers, config.num_hidden_layers)
    with torch.device("meta"):  # because peft does not work on fake tensors
        model = build_model(config, settings)
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


def _batch(settings: StepSettings, texts: int) -> dict[str, torch.Tensor]:
    ids = torch.zeros(texts, settings.sequence_length, dtype=torch.long)
    batch = {"input_ids": ids}
    if settings.padded:
        batch["attention_mask"] = torch.ones_like(ids)
    if settings.head == "questions":
        return batch | {"start_positions": ids[:, 0], "end_positions": ids[:, 0]}
    return batch | {"labels": ids[:, 0] if settings.head == "classifier" else ids.clone()}


def _sizes_of(module: nn.Module) -> dict[str, int]:
    weights = list(module.parameters())
    trained = [p for p in weights if p.requires_grad]
    return {
        "parameter_count": sum(p.numel() for p in weights),
        "trainable_count": sum(p.numel() for p in trained),
        "parameters": sum(p.nbytes for p in weights),
        "gradients": sum(p.nbytes for p in trained),
    }


_END_OF_FORWARD = "end of forward"


def _deepen(
    memory: StepMemory, extra: int, always: np.ndarray, cache: float
) -> dict[str, np.ndarray]:
    """The worst moment of each place, (kinds,), for a model with ``extra`` more layers between the
    second and the third. always, cache: as in ``_Record``.

    Forwards, a layer finds what the one before has kept; backwards, it finds that used up, all but
    the cache, and the gradients of the layers behind it made.
    """
    table = np.stack([memory.timeline[kind] for kind in KINDS], axis=1)  # (operations, kinds)
    number_of: dict[str, int] = {}
    total = memory.total
    for number, place in enumerate(memory.places):
        if place not in number_of or total[number] > total[number_of[place]]:
            number_of[place] = number
        if place == "forward head":
            number_of[_END_OF_FORWARD] = number
    worst = {place: table[number] for place, number in number_of.items()}
    if not extra:
        return worst
    up = worst["forward layer 3"] - worst["forward layer 2"]
    down = up * 0
    if "backward layer 2" in worst:
        down = worst["backward layer 2"] - worst["backward layer 3"]
    held = np.where(np.arange(len(KINDS)) == _ACTIVATIONS, cache, 0)
    kept = np.where(np.arange(len(KINDS)) == _GRADIENTS, 0, -down) + held
    found, grown = {}, extra * always
    for place, now in worst.items():
        phase, _, number = place.partition(" layer ")
        if place == "forward layer 3":
            for more in range(1, extra + 1):
                found[f"forward layer {2 + more}"] = worst["forward layer 2"] + grown + more * up
            grown = grown + extra * up
        elif place == "backward head":
            grown = extra * (always + kept)
        elif place == "update":  # the output is gone, and the cache with it
            grown = grown - extra * held
        elif place == "backward layer 2":
            for more in range(1, extra + 1):
                at = f"backward layer {3 + extra - more}"
                found[at] = worst["backward layer 3"] + grown + more * down
            grown = grown + extra * down
        behind = number and int(number) > 2
        found[f"{phase} layer {int(number) + extra}" if behind else place] = now + grown
    return found


def _flops_of_text(shape: str, settings: StepSettings) -> list[int]:
    """Of a forward pass, of its linear layers alone, and of a whole step, for one text."""
    only = {
        name: getattr(settings, name) for name in ("head", "labels", "checkpointing", "lora_rank")
    }
    layers, place = _config(shape).num_hidden_layers, Fraction(settings.sequence_length - 8, 8)
    points = []
    for length in _LENGTHS:
        # Eager attention: torch's counter misses a part of the fused kernels' products.
        step = StepSettings(1, length, attention="eager", optimizer="sgd", dropout=0.0, **only)
        one, two = (_count_flops(shape, number, step) for number in (1, 2))
        points.append([a + (layers - 1) * (b - a) for a, b in zip(one, two, strict=True)])
    return [
        int(a + place * (b - a) + place * (place - 1) / 2 * (c - 2 * b + a))
        for a, b, c in zip(*points, strict=True)
    ]


@lru_cache(maxsize=512)
def _count_flops(shape: str, layers: int, settings: StepSettings) -> tuple[int, int, int]:
    with _fake_model(shape, layers, settings) as model, FlopCounterMode(display=False) as counter:
        output = model(**_batch(settings, 1))
        forward, by_operation = counter.get_total_flops(), counter.get_flop_counts()["Global"]
        linear = sum(by_operation.get(op, 0) for op in (torch.ops.aten.mm, torch.ops.aten.addmm))
        output.loss.backward()
        return forward, linear, counter.get_total_flops()


class _GpuKernels(TorchFunctionMode):
    """Dropout and attention as a GPU does them: what they keep for the backward pass differs from
    the CPU's kernels, and fake tensors would choose by the device, which is the CPU here."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is nn.functional.dropout:
            return _gpu_dropout(*args, **kwargs or {})
        if func is nn.functional.scaled_dot_product_attention:
            return _gpu_attention(*args, **kwargs or {})
        return func(*args, **kwargs or {})


def _gpu_dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    return torch.ops.aten.native_dropout(x, p, True)[0] if training and p else x


def _gpu_attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, **others: Any,
) -> Any:  # fmt: skip
    if attn_mask is None:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention
        return kernel(query, key, value, dropout_p, is_causal)[0]
    bias = torch.zeros(attn_mask.shape, dtype=query.dtype).masked_fill_(attn_mask, -torch.inf)
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    bias = bias.expand(-1, query.shape[1], -1, -1)
    return kernel(query, key, value, bias, True, dropout_p, is_causal)[0]
