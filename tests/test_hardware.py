"""The planner, which computes nothing, against real models that do: their parameters, the tensors
that autograd keeps, the peak of a step by torch's allocator, the products that its counter
counts; and against published counts and arithmetic by hand."""

from copy import deepcopy

import pytest
import torch
from allocator import allocated
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    DistilBertConfig,
    GPT2LMHeadModel,
    LlamaForCausalLM,
)

from helpers import assets, hardware, models
from helpers.errors import InvalidValue
from helpers.hardware import gpus
from helpers.models import lora

HEADS = {
    ("bert", "classifier"): BertForSequenceClassification,
    ("bert", "tokens"): BertForTokenClassification,
    ("bert", "questions"): BertForQuestionAnswering,
    ("bert", "masked-lm"): BertForMaskedLM,
    ("gpt2", "causal-lm"): GPT2LMHeadModel,
    ("llama", "causal-lm"): LlamaForCausalLM,
}
PUBLISHED = {  # as their model cards and weights have it; BERT's without a head
    "minilm-l6": 22_713_216,
    "bert-base": 109_482_240,
    "bert-large": 335_141_888,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
}
FULL = {"layers": None, "vocabulary": None}  # the model as it is
# Of each, the second step of a real model is measured. The first eight are lesson 09's, in small.
MEASURED = [
    ("encoder", FULL, {}),
    ("encoder", {}, {"accumulation": 3}),
    ("encoder", {}, {"checkpointing": True}),
    ("encoder", {}, {"optimizer": "sgd"}),
    ("encoder", {}, {"lora_rank": 8}),
    ("encoder", {}, {"batch_size": 1, "sequence_length": 32, "precision": "bf16"}),
    ("causal-lm", {}, {"batch_size": 2, "sequence_length": 16}),
    ("causal-lm", {}, {"batch_size": 2, "sequence_length": 16, "lora_rank": 8}),
    ("encoder", {"layers": 2}, {"head": "questions", "dropout": 0.1, "padded": True}),
    ("encoder", {"layers": 3}, {"head": "masked-lm", "optimizer": "momentum", "batch_size": 1}),
    ("encoder", {"layers": 2}, {"head": "tokens", "labels": 9, "attention": "eager"}),
    ("causal-lm", {"layers": 2}, {"lora_rank": 8, "checkpointing": True, "padded": True}),
    ("gpt2", {"layers": 5}, {}),
    ("gpt2", {"layers": 2}, {"attention": "eager", "dropout": 0.1, "checkpointing": True}),
]
IDS = [f"{name}-{'-'.join(map(str, [*size, *settings]))}" for name, size, settings in MEASURED]
STEP = {"batch_size": 6, "sequence_length": 48}


def config_of(name, *, layers=6, vocabulary=3000):
    config = deepcopy(hardware.model_config(name))
    if layers:
        setattr(config, "n_layer" if config.model_type == "gpt2" else "num_hidden_layers", layers)
    if vocabulary:
        config.vocab_size, config.bos_token_id, config.eos_token_id = vocabulary, 1, 2
    return config


def build(config, *, head=None, labels=2, dropout=0.0, attention="sdpa", checkpointing=False,
          lora_rank=None, **others):  # fmt: skip
    config = deepcopy(config)
    config.num_labels = labels
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "resid_pdrop",
                 "attn_pdrop", "embd_pdrop", "attention_dropout"):  # fmt: skip
        if hasattr(config, name):
            setattr(config, name, dropout)
    kind = HEADS[config.model_type, head or hardware.HEADS[config.model_type][0]]
    model = kind._from_config(config, attn_implementation=attention)
    model.loss_type = "ForCausalLM" if "CausalLM" in kind.__name__ else model.loss_type
    if checkpointing:
        model.config.use_cache = False
        model.gradient_checkpointing_enable()
    return model if lora_rank is None else lora.add_lora(model, rank=lora_rank)


def batch_for(model, rows, length, *, head=None, padded=False, **others):
    ids = torch.randint(5, 50, (rows, length))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if padded:
        batch["attention_mask"][0, length // 2 :] = 0
    head = head or hardware.HEADS[model.config.model_type][0]
    if head == "questions":
        places = torch.zeros(rows, dtype=torch.long)
        return batch | {"start_positions": places, "end_positions": places}
    labels = {"classifier": torch.zeros(rows, dtype=torch.long), "tokens": torch.zeros_like(ids)}
    return batch | {"labels": labels.get(head, ids.clone())}


def measured_peak(model, *, optimizer="adamw", accumulation=1, batch_size, sequence_length,
                  precision="fp32", **settings):  # fmt: skip
    """Bytes at the peak of the second step, by torch's allocator."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    update = {
        "adamw": lambda: torch.optim.AdamW(trained, fused=True),
        "momentum": lambda: torch.optim.SGD(trained, momentum=0.9),
        "sgd": lambda: torch.optim.SGD(trained),
    }[optimizer]()
    rows = batch_size // accumulation
    batches = [batch_for(model, rows, sequence_length, **settings) for _ in range(accumulation)]

    def step():
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                output = model(**batch)
            output.loss.backward()
            del output
        update.step()
        update.zero_grad()

    step()
    return allocated(step, model, update)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable")
@pytest.mark.parametrize(("name", "size", "settings"), MEASURED, ids=IDS)
def test_the_peak_is_what_torch_measures(name, size, settings):
    """The promise is 15 %; it is 1 %, but for the moment at which Python lets go of what
    checkpointing has made again."""
    config, settings = config_of(name, **size), {"dropout": 0.0, **STEP, **settings}
    plan = hardware.plan(config, **settings)
    model = build(config, **settings).train()
    tolerance = 0.05 if settings.get("checkpointing") else 0.01
    assert plan.peak == pytest.approx(measured_peak(model, **settings), rel=tolerance)
    counts = [p.numel() for p in model.parameters()]
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    assert (plan.parameter_count, plan.trainable_count) == (sum(counts), sum(trained))


def kept_bytes(model, batch, *, precision="fp32"):
    """Of all storages that autograd keeps and that are neither weights nor the batch."""
    outside = [*model.parameters(), *model.buffers(), *batch.values()]
    seen = {tensor.untyped_storage()._cdata for tensor in outside}
    sizes, alive = [], []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            sizes.append(storage.nbytes())
            alive.append(storage)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        model(**batch)
    return sum(sizes)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("encoder", {"dropout": 0.1}),
        ("encoder", {"attention": "eager"}),
        ("encoder", {"precision": "bf16"}),
        ("causal-lm", {"lora_rank": 4}),
        ("gpt2", {"padded": True}),
    ],
    ids=str,
)
def test_activations_are_what_autograd_keeps(name, settings):
    config, settings = config_of(name, layers=5), {"dropout": 0.0, **settings}
    # With use_cache, the output holds keys and values, which autograd keeps all the same.
    plan = hardware.plan(config, **STEP, **settings)
    model = build(config, **settings).train()
    kept = kept_bytes(model, batch_for(model, *STEP.values(), **settings),
                      precision=plan.settings.precision)  # fmt: skip
    held = 4 * STEP["batch_size"] * STEP["sequence_length"] * config.vocab_size  # the logits
    assert plan.activations - (held if name != "encoder" else 0) == pytest.approx(kept, rel=0.03)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name):
    settings = hardware.StepSettings(batch_size=1, sequence_length=8)
    with torch.device("meta"):
        model = hardware.build_model(name, settings)
    inner = model.bert if "bert" in name or name == "minilm-l6" else model
    assert sum(p.numel() for p in inner.parameters()) == PUBLISHED[name]


def test_every_model_s_count_is_tested():
    assert {*PUBLISHED, "encoder", "causal-lm"} == set(hardware.MODELS)


@pytest.mark.parametrize("name", ["encoder", "causal-lm"])
def test_the_catalogue_s_shapes_are_those_of_its_files(name):
    if name == "encoder":
        real = AutoConfig.from_pretrained(assets.fetch(name) / "config.json")
    else:
        real = models.load_causal_lm(name).config
    ours = hardware.model_config(name)
    sizes = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "intermediate_size", "max_position_embeddings",
             "tie_word_embeddings", "head_dim", "hidden_act"}  # fmt: skip
    for size in sizes - ({"max_position_embeddings"} if name == "causal-lm" else set()):
        assert getattr(ours, size, None) == getattr(real, size, None), size


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("encoder", {"head": "masked-lm"}),
        ("encoder", {"checkpointing": True, "labels": 3}),
        ("causal-lm", {}),
        ("gpt2", {"lora_rank": 4}),
    ],
    ids=str,
)
def test_operations_are_those_that_torch_counts(name, settings):
    config, settings = config_of(name, layers=4), {"dropout": 0.0, **settings}
    model = build(config, attention="eager", **settings).train()
    batch = batch_for(model, *STEP.values(), **settings)
    with FlopCounterMode(display=False) as counter:
        model(**batch).loss.backward()
    plan = hardware.plan(config, **STEP, **settings)
    assert plan.flops == counter.get_total_flops()
    assert hardware.flops(config, **STEP, **settings) == plan.flops


def test_operations_are_6_n_d_and_the_scores():
    """6 for each weight that every token meets (Kaplan et al. 2020), lookup and norms left out, and
    4 T width per token and layer for the scores forwards, three times that in all."""
    plan = hardware.plan("llama-2-7b", batch_size=1, sequence_length=2048)
    weights = plan.parameter_count - 32000 * 4096 - 65 * 4096
    assert plan.flops == 6 * weights * 2048 + 3 * 32 * 4 * 2048 * 4096 * 2048


def test_a_step_shares_its_texts_out():
    whole = hardware.plan("encoder", batch_size=32, sequence_length=64)
    parts = hardware.plan("encoder", batch_size=32, sequence_length=64, accumulation=8)
    assert parts.flops == whole.flops
    assert parts.activations == pytest.approx(whole.activations / 8, rel=0.01)
    assert parts.peak < whole.peak


def test_kinds_add_up_and_the_moments_are_in_order():
    plan = hardware.plan("encoder", batch_size=4, sequence_length=32)
    assert sum(plan.at_peak().values()) == plan.peak == max(m.total for m in plan.moments)
    layers = range(1, 7)
    assert [moment.where for moment in plan.moments] == [
        "forward embeddings", *(f"forward layer {n}" for n in layers), "forward head",
        "backward head", *(f"backward layer {n}" for n in reversed(layers)),
        "backward embeddings", "update",
    ]  # fmt: skip
    assert plan.inference_peak < plan.parameters + plan.activations


def test_activations_on_a_gpu_by_hand():
    """Bytes that a BERT layer keeps for each number of a token's vector, in float32, counted as in
    Korthikanti et al. 2022 (section 4), where the numbers are half as wide; the scores stay in the
    kernel. Input 4, query, key and value 12, attention's output 4, two dropouts 1 each, two sums
    before a norm 4 each, the norm between 4, before and after the gelu 16 each."""
    plan = hardware.plan("bert-base", batch_size=32, sequence_length=128, device="cuda")
    layer = 32 * 128 * 768 * (4 + 12 + 4 + 2 * 1 + 2 * 4 + 4 + 2 * 16)
    assert plan.activations == pytest.approx(12 * layer, rel=0.02)


@pytest.mark.parametrize(
    ("name", "count"),
    [("bert-base", 109_483_778), ("bert-large", 335_143_938), ("gpt2-xl", 1_557_611_200),
     ("llama-2-7b", 6_738_415_616)],
)  # fmt: skip
def test_which_model_fits_which_card(name, count):
    """AdamW in float32 takes 16 bytes per weight, LoRA on 16-bit weights hardly more than 2."""
    on = {"sequence_length": 512, "device": "cuda"}
    plan = hardware.plan(name, batch_size=2, **on)
    assert plan.parameter_count == plan.trainable_count == count
    state = plan.parameters + plan.gradients + plan.optimizer_state
    assert state == pytest.approx(16 * count, rel=1e-4)
    thrifty = {"precision": "bf16", "weights": "bf16", "lora_rank": 8, "checkpointing": True}
    thin = hardware.plan(name, batch_size=2, **on, **thrifty)
    assert thin.parameters == pytest.approx(2 * count, rel=0.02)
    assert thin.trainable_count < 0.01 * count
    for card in map(gpus.get_card, ("t4", "rtx-3090", "a100-80gb")):
        room = card.memory - 10**9
        assert gpus.largest_batch(name, card, **on) == 0 or 16 * count < room
        assert 16 * count + plan.activations > room or gpus.largest_batch(name, card, **on) > 0
    assert (gpus.largest_batch(name, gpus.get_card("rtx-3090"), **on, **thrifty) > 0) == (
        2 * count < 23 * 10**9
    )


def test_half_precision_saves_activations_but_not_the_state():
    step = {"batch_size": 32, "sequence_length": 128, "device": "cuda"}
    full, mixed = (hardware.plan("bert-base", **step, precision=p) for p in ("fp32", "fp16"))
    assert mixed.activations < 0.75 * full.activations
    assert (mixed.parameters, mixed.optimizer_state) == (full.parameters, full.optimizer_state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "llama-2-8b"}, "Did you mean 'llama-"),
        ({"model": DistilBertConfig()}, "'distilbert'; it knows bert, gpt2, llama"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": -4}, "batch_size is -4"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"batch_size": True}, "batch_size is True"),
        ({"sequence_length": 0}, "sequence_length is 0"),
        ({"sequence_length": 513}, "has 512 positions"),
        ({"head": "causal-lm"}, "head of bert"),
        ({"labels": 0}, "labels is 0"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"weights": "bf16"}, "precision is fp32; make both the same"),
        ({"optimizer": "adam"}, "Did you mean 'adamw'?"),
        ({"accumulation": 9}, "accumulation is 9, more than the 8 texts"),
        ({"accumulation": 0}, "accumulation is 0"),
        ({"lora_rank": -1}, "lora_rank is -1"),
        ({"lora_rank": 400}, "Give 1 to 384"),
        ({"attention": "flash"}, "unknown attention"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"attention_dropout": -0.1}, "attention_dropout is -0.1"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
    ],
    ids=str,
)
def test_bad_settings_are_named(settings, message):
    settings = {"model": "encoder", "batch_size": 8, "sequence_length": 64, **settings}
    with pytest.raises(InvalidValue, match=message.replace("(", r"\(").replace("?", r"\?")):
        hardware.plan(settings.pop("model"), **settings)


def test_a_folder_without_a_configuration_is_named(tmp_path):
    with pytest.raises(InvalidValue, match="holds no config"):
        hardware.plan(tmp_path, batch_size=1, sequence_length=8)
