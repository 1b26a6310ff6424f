"""Memory against bytes counted by hand and torch's own peak; times against known waits."""

import time

import pytest
import tiny
import torch
from allocator import allocated
from tiny import one_thread  # noqa: F401
from torch import nn

from helpers.batches import take_rows
from helpers.errors import InvalidValue
from helpers.hardware.measure import KINDS, Timings, step_memory, time_in_turns
from helpers.models import count_parameters

FLOAT = 4


def plain_step(model, optimizer, batch):
    def step():
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)


def test_bytes_counted_by_hand():
    """Two matrices and a tanh: every tensor of the step is known."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 20, bias=False), nn.Tanh(), nn.Linear(20, 5, bias=False))
    optimizer, x = adamw(model), torch.randn(8, 10)

    def step():
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    found = step_memory(step, model, optimizer)
    weights = (10 * 20 + 20 * 5) * FLOAT
    assert found.most("parameters") == weights
    assert found.most("gradients") == weights
    # Two moments a weight, and for each matrix the number of steps.
    assert found.most("optimizer") == 2 * weights + 2 * FLOAT
    # The hidden layer before and after the tanh; then only the latter is kept.
    assert found.most("activations") == 2 * 8 * 20 * FLOAT
    # The worst moment: backward through the tanh, whose two sides have a gradient each, while
    # the hidden layer and the second matrix's gradient are there.
    worst = found.at_peak()
    assert worst["temporary"] == 2 * 8 * 20 * FLOAT and worst["gradients"] == 20 * 5 * FLOAT
    # The update: weights, gradients and state; all activations are gone.
    update = [place == "update" for place in found.places]
    assert found.total[update].max() == 4 * weights + 2 * FLOAT
    assert found.peak == found.total.max() == sum(found.at_peak().values())
    assert {len(values) for values in found.timeline.values()} == {len(found.total)}
    assert tuple(found.timeline) == KINDS


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_is_that_of_torchs_allocator(checkpointing):
    batch = tiny.encoded(8).batch(range(8))

    def made():
        model = tiny.classifier().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        optimizer = adamw(model)
        return plain_step(model, optimizer, batch), model, optimizer

    ours, theirs = made(), made()
    # Each checkpointed layer keeps the state of the random numbers, which no operation makes.
    states = 2 * torch.get_rng_state().nbytes if checkpointing else 0
    for _ in range(2):  # AdamW makes its state in the first step
        assert step_memory(*ours, warm_up=0).peak + states == allocated(*theirs)


def test_the_first_step_has_no_optimizer_state_yet():
    batch, model = tiny.encoded(8).batch(range(8)), tiny.classifier().train()
    optimizer = adamw(model)
    step = plain_step(model, optimizer, batch)
    first = step_memory(step, model, optimizer, warm_up=0)
    later = step_memory(step, model, optimizer, warm_up=0)
    state = sum(t.numel() * FLOAT for s in optimizer.state.values() for t in s.values())
    assert first.at_peak()["optimizer"] == 0 and later.at_peak()["optimizer"] == state
    assert later.peak - first.peak == state > 2 * FLOAT * count_parameters(model)


def test_measuring_leaves_the_training_as_it_is():
    batch, weights = tiny.encoded(8).batch(range(8)), []
    for measured in (True, False):
        model = tiny.classifier().train()
        optimizer = adamw(model)
        step = plain_step(model, optimizer, batch)
        if measured:
            step_memory(step, model, optimizer, warm_up=1)
        else:
            step()
            step()
        weights.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_accumulation_and_checkpointing_need_fewer_activations():
    batch, model = tiny.encoded(8).batch(range(8)), tiny.classifier().train()
    optimizer = adamw(model)

    def accumulated():
        for start in range(0, 8, 2):
            part = take_rows(batch, slice(start, start + 2))
            (model(**part).loss / 4).backward()
        optimizer.step()
        optimizer.zero_grad()

    step = plain_step(model, optimizer, batch)
    whole = step_memory(step, model, optimizer)
    parts = step_memory(accumulated, model, optimizer)
    assert parts.most("activations") < 0.3 * whole.most("activations")
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable()
    again = step_memory(step, model, optimizer)
    assert again.at_peak()["activations"] < 0.7 * whole.at_peak()["activations"]
    for kind in ("parameters", "optimizer"):
        assert parts.most(kind) == again.most(kind) == whole.most(kind)


def test_frozen_weights_have_neither_gradients_nor_state():
    batch, model = tiny.encoded(8).batch(range(8)), tiny.classifier().train()
    model.bert.requires_grad_(False)
    head = list(model.classifier.parameters())
    optimizer = torch.optim.AdamW(head, fused=True)
    found = step_memory(plain_step(model, optimizer, batch), model, optimizer)
    trained = sum(p.numel() for p in head) * FLOAT
    assert found.most("gradients") == trained
    assert found.most("optimizer") == 2 * trained + len(head) * FLOAT
    assert found.most("parameters") > FLOAT * count_parameters(model)  # with buffers


def test_what_cannot_be_measured_is_refused():
    model = nn.Linear(2, 2)
    with pytest.raises(InvalidValue, match="never called the model"):
        step_memory(lambda: torch.ones(2), model)


def test_a_failing_step_leaves_no_hook_behind():
    model = nn.Linear(2, 2)
    with pytest.raises(ZeroDivisionError):
        step_memory(lambda: 1 / 0, model, warm_up=0)
    found = step_memory(lambda: model(torch.ones(2)).sum().backward(), model, warm_up=0)
    assert found.most("gradients") == 6 * FLOAT


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_the_peak_on_a_gpu_is_that_of_its_allocator():
    batch = {k: v.cuda() for k, v in tiny.encoded(8).batch(range(8)).items()}
    model = tiny.classifier().cuda().train()
    optimizer = adamw(model)
    step = plain_step(model, optimizer, batch)
    step()
    torch.cuda.reset_peak_memory_stats()
    step()
    used = torch.cuda.max_memory_allocated()
    assert step_memory(step, model, optimizer).peak == pytest.approx(used, rel=0.15)


def test_ways_take_turns_and_each_round_starts_with_another():
    order = []
    found = time_in_turns({name: lambda name=name: order.append(name) for name in "abc"}, repeats=3)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert all(len(seconds) == 3 for seconds in found.seconds.values())


def test_ratios_of_known_waits():
    waits = {"short": 0.01, "long": 0.03}
    found = time_in_turns({k: lambda v=v: time.sleep(v) for k, v in waits.items()}, repeats=5)
    assert 2 < found.ratio("long", to="short") < 4
    assert found.ratio("short", to="short") == 1
    assert 0.01 <= found.median("short") < 0.03


def test_a_sparse_gradient_counts_as_its_rows_and_their_numbers():
    """As training.fit has for the word embeddings: 3 rows of 4 in place of 1,000."""
    table, rows = nn.Embedding(1000, 4, sparse=True), torch.tensor([5, 7, 9])

    def step():
        table(rows).sum().backward()
        table.weight.grad = None

    found = step_memory(step, table)
    assert 3 * 4 * FLOAT <= found.most("gradients") + found.most("temporary") < 100 * FLOAT
    assert found.most("parameters") == 1000 * 4 * FLOAT


def test_the_ratio_is_the_median_over_rounds():
    """The machine was five times slower in the second round: the ratio does not see it."""
    found = Timings({"a": [1.0, 5.0, 1.0], "b": [2.0, 10.0, 3.0]}, {"a": 9.0, "b": 9.0})
    assert found.ratio("b", to="a") == 2 and found.ratio("a", to="b") == 0.5
    assert found.median("b") == 3


def test_the_first_call_is_kept_apart():
    calls = []

    def slow_at_first():
        time.sleep(0.05 if not calls else 0.001)
        calls.append(None)

    found = time_in_turns({"it": slow_at_first}, repeats=3)
    assert found.first["it"] >= 0.05 > max(found.seconds["it"])


def test_bad_timing_requests():
    with pytest.raises(InvalidValue, match="nothing to time"):
        time_in_turns({})
    with pytest.raises(InvalidValue, match="repeats is 0"):
        time_in_turns({"a": int}, repeats=0)
    with pytest.raises(InvalidValue, match="unknown way 'c'"):
        time_in_turns({"a": int, "b": int}).ratio("c", to="a")
