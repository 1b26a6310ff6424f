"""The parts of a training run one by one: settings at the ends of their ranges, what a history
remembers, rates, gradients, rows and seeds, against torch and hand arithmetic."""

import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from helpers.errors import InvalidValue
from helpers.training import steps
from helpers.training.config import History, TrainingConfig, learning_rate_at

# -- settings ------------------------------------------------------------------------------------

RANGES = {  # a setting: values just inside its range, and just outside
    "epochs": ([0.01, 1, 3.5], [0, -1, math.inf, math.nan, "2", True]),
    "learning_rate": ([1e-9, 1, 1.0], [0, -1e-4, 1.001, None, True]),
    "layer_decay": ([0.01, 1], [0, 1.001]),
    "weight_decay": ([0, 1], [-0.001, 1.001]),
    "warmup_fraction": ([0, 1], [-0.001, 1.001]),
    "consistency": ([0, 1.5, 100], [-0.001, 100.1]),
    "max_grad_norm": ([0.001, 7], [0, -1]),
    "schedule": (["linear", "cosine", "constant"], ["Linear", "", None]),
    "metric": (["loss", "accuracy"], ["", "f1", 3, None]),
    "seed": ([0, 2**32 - 1], [-1, 2**32, 1.0, True]),
    "batch_size": ([1, 32], [0, 1.5, True]),
    "accumulation": ([1, 32], [0, 2.0]),
    "max_steps": ([1, None], [0, 2.5, True]),
    "evaluate_every": ([1, None], [0, 2.5]),
    "patience": ([1, None], [0, 2.5]),
    "keep_best": ([True, False], [None, 1, "yes"]),
    "resume": ([False], [None, 0]),
    "progress": ([True, False], [None, 1]),
    "checkpoint_folder": (["runs", Path("runs"), None], [3, True]),
}


@pytest.mark.parametrize("name", RANGES)
def test_a_setting_is_taken_up_to_the_ends_of_its_range(name):
    allowed, refused = RANGES[name]
    for value in allowed:
        assert getattr(TrainingConfig(**{name: value}), name) in (value, Path(str(value)))
    for value in refused:
        with pytest.raises(InvalidValue) as caught:
            TrainingConfig(**{name: value})
        assert str(caught.value).startswith(f"{name} is {value!r}; it must be ")


def test_settings_that_depend_on_each_other():
    assert TrainingConfig(batch_size=4, accumulation=4).accumulation == 4
    with pytest.raises(InvalidValue, match="accumulation is 5, more than the 4 examples"):
        TrainingConfig(batch_size=4, accumulation=5)
    for given in ({"checkpoint_every": 1}, {"resume": True}):
        with pytest.raises(InvalidValue, match="checkpoint_folder is None"):
            TrainingConfig(**given)
        folder = TrainingConfig(**given, checkpoint_folder="runs").checkpoint_folder
        assert folder == Path("runs") and isinstance(folder, Path)
    for wrong in (0, 2.5):
        with pytest.raises(InvalidValue, match=f"checkpoint_every is {wrong}"):
            TrainingConfig(checkpoint_every=wrong, checkpoint_folder="runs")


def test_what_decides_on_the_weights():
    """All settings but those that say where to compute, what to show and where to save."""
    free = {"checkpoint_every", "checkpoint_folder", "resume", "device", "progress"}
    config = TrainingConfig(epochs=3, seed=9)
    expected = {field.name: getattr(config, field.name) for field in fields(TrainingConfig)}
    assert config.decisive_settings() == {n: v for n, v in expected.items() if n not in free}


# -- history -------------------------------------------------------------------------------------


def judged(scores, config):
    history = History()
    improved = [
        history.add_evaluation({"step": step, config.metric: value}, config)
        for step, value in scores
    ]
    return history, improved


def test_the_best_evaluation_is_noted_and_an_equal_one_is_no_better():
    history, improved = judged([(5, 2.0), (10, 1.0), (15, 1.0), (20, 3.0)], TrainingConfig())
    assert improved == [True, True, False, False] and history.best_step == 10
    assert [row["loss"] for row in history.evaluations] == [2.0, 1.0, 1.0, 3.0]
    _, improved = judged([(1, 0.5), (2, 0.4), (3, 0.6)], TrainingConfig(metric="accuracy"))
    assert improved == [True, False, True]
    _, improved = judged([(1, math.nan), (2, 0.4), (3, math.nan)], TrainingConfig())
    assert improved == [False, True, False]


@pytest.mark.parametrize(("patience", "over"), [(1, True), (2, True), (3, False), (None, False)])
def test_patience_counts_the_evaluations_since_the_best(patience, over):
    config = TrainingConfig(patience=patience)
    history, _ = judged([(5, 2.0), (10, 1.0), (15, 1.5), (20, 3.0)], config)
    assert history.patience_is_over(config) is over


def test_patience_also_ends_a_run_that_was_never_judged_a_number():
    config = TrainingConfig(patience=2)
    history, _ = judged([(1, math.nan)], config)
    assert not history.patience_is_over(config)
    history, _ = judged([(1, math.nan), (2, math.nan)], config)
    assert history.best_step is None and history.patience_is_over(config)


def test_a_new_history():
    assert History().processes == 1 and History().losses == []
    assert History(steps=[{"step": 1, "loss": 2.5}]).losses == [2.5]


# -- the learning rate ---------------------------------------------------------------------------


@pytest.mark.parametrize("warmup_fraction", [0.0, 0.1, 0.25, 1.0])
@pytest.mark.parametrize("total", [1, 7, 40])
def test_the_cosine_is_transformers_own(warmup_fraction, total):
    config = TrainingConfig(learning_rate=0.5, schedule="cosine", warmup_fraction=warmup_fraction)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(warmup_fraction * total), total)
    for step in range(total):
        assert learning_rate_at(step, total, config) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_the_linear_rate_on_paper():
    config = TrainingConfig(learning_rate=1.0, warmup_fraction=0.25)
    found = [learning_rate_at(step, 8, config) for step in range(9)]
    assert found == pytest.approx([0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])
    assert learning_rate_at(3, 8, TrainingConfig(learning_rate=0.5, schedule="constant")) == 0.5


# -- optimiser and gradients ---------------------------------------------------------------------

NAMES = [
    "bert.embeddings.word.weight",
    "bert.encoder.layer.0.w.weight",
    "bert.encoder.layer.1.w.weight",
    "bert.encoder.layer.11.w.bias",
    "bert.pooler.weight",
    "classifier.weight",
]


def test_layers_learn_at_powers_of_the_decay():
    found = steps.layer_scales(NAMES, 0.5)
    assert list(found.values()) == [0.5**13, 0.5**12, 0.5**11, 0.5, 1.0, 1.0]
    decoder = ["transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.w", "lm_head.w"]
    assert list(steps.layer_scales(decoder, 0.1).values()) == pytest.approx([0.01, 0.01, 0.1, 1])
    for name in ("model.layers.0.w", "blocks.0.w", "block.0.w", "layers.0.w"):
        assert steps.layer_scales([name, "head.w"], 0.5) == {name: 0.5, "head.w": 1.0}
    assert steps.layer_scales(["a.weight", "embed.weight"], 1) == {"a.weight": 1, "embed.weight": 1}
    with pytest.raises(InvalidValue, match=r"layer_decay is 0\.5"):
        steps.layer_scales(["a.weight", "b.weight"], 0.5)


KINDS = ("cpu", "cuda", "mps")


def test_the_optimiser_spares_vectors_and_frozen_weights_the_decay():
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3), nn.Linear(3, 2))
    model[3].weight.requires_grad = False
    config = TrainingConfig(weight_decay=0.3, learning_rate=0.02)
    optimizer = steps.build_optimizer(model, config, "cpu")
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.defaults["lr"] == 0.02
    decays = {
        id(weight): group["weight_decay"]
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    for weight in model.parameters():
        if weight.requires_grad:
            assert decays.pop(id(weight)) == (0.3 if weight.dim() > 1 else 0.0)
    assert not decays
    assert all(group["scale"] == 1 and group["fused"] for group in optimizer.param_groups)
    fused = {kind: steps.build_optimizer(model, config, kind).defaults["fused"] for kind in KINDS}
    assert fused == {"cpu": True, "cuda": True, "mps": False}
    model.requires_grad_(False)
    with pytest.raises(InvalidValue, match="no weight of the model is trainable"):
        steps.build_optimizer(model, config, "cpu")


@pytest.mark.parametrize("max_norm", [0.01, 1.0, 5.0, 1e9])
def test_clipping_is_torchs(max_norm):
    torch.manual_seed(0)
    mine, theirs = ([nn.Parameter(torch.zeros(3, 2)) for _ in range(4)] for _ in range(2))
    for a, b in zip(mine[:3], theirs[:3], strict=True):  # the fourth has no gradient
        a.grad = torch.randn(3, 2)
        b.grad = a.grad.clone()
    expected = nn.utils.clip_grad_norm_(theirs, max_norm)
    assert steps.clip_gradients(mine, max_norm) == pytest.approx(float(expected), rel=1e-6)
    for a, b in zip(mine[:3], theirs[:3], strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=0)


def test_a_gradient_of_just_the_largest_norm_is_left_alone():
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert steps.clip_gradients([weight], 5.0) == 5.0
    assert weight.grad.tolist() == [3.0, 4.0]


# -- rows and seeds ------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", [1, 2, 7, 16])
@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("accumulation", [1, 2, 5])
def test_every_row_of_a_batch_is_taken_once(examples, world, accumulation):
    taken = []
    for rank in range(world):
        pieces = steps.micro_batches(examples, rank, world, accumulation)
        mine = np.concatenate(pieces).astype(int).tolist()
        assert mine == list(range(rank, examples, world))
        assert len(pieces) == max(1, min(accumulation, len(mine)))
        assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
        taken += mine
    assert sorted(taken) == list(range(examples))


def test_seeds_differ_by_every_number_and_are_of_63_bits():
    seeds = {
        steps.derived_seed(seed, number, purpose)
        for seed in range(8)
        for number in range(50)
        for purpose in (steps.DROPOUT, steps.MASKING, steps.EVALUATION)
    }
    assert len(seeds) == 8 * 50 * 3
    assert all(0 <= seed < 2**63 for seed in seeds) and max(seeds) > 2**62
    expected = np.random.SeedSequence([4, 7, 1]).generate_state(1, np.uint64)[0] // np.uint64(2)
    assert steps.derived_seed(4, 7, 1) == int(expected)
    drawn = torch.rand(3, generator=steps.generator_for(4, 7, 1))
    again = torch.rand(3, generator=torch.Generator().manual_seed(int(expected)))
    assert drawn.tolist() == again.tolist()


@pytest.mark.parametrize(
    ("error", "out_of_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("CUDA Out of Memory. Tried to allocate"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(error, out_of_memory):
    assert steps.is_out_of_memory(error) is out_of_memory


def test_a_batch_moves_whole():
    batch = {"a": torch.ones(2), "b": torch.zeros(3, dtype=torch.long)}
    moved = steps.move(batch, torch.device("meta"))
    assert {name: (t.device.type, t.dtype, t.shape) for name, t in moved.items()} == {
        name: ("meta", t.dtype, t.shape) for name, t in batch.items()
    }
    assert steps.move(batch, torch.device("cpu"))["a"] is batch["a"]
