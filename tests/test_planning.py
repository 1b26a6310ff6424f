"""Cards, time and cost, and the plan of a task's run as the command line prints it."""

import re

import numpy as np
import pytest
import torch

from helpers import batches, hardware, models, runtime, tasks
from helpers.cli.main import main
from helpers.errors import InvalidValue
from helpers.hardware import gpus
from helpers.hardware.gpus import GB
from helpers.hardware.plan_report import duration, render
from helpers.hardware.task_plan import plan_task


def plan(**settings):
    return hardware.plan(
        "bert-base", **{"batch_size": 32, "sequence_length": 128, "device": "cuda", **settings}
    )


def test_what_fits_is_a_comparison_of_bytes():
    found = {fit.card.name: fit for fit in gpus.which_fits(plan(batch_size=256), reserve=2 * GB)}
    for name, fit in found.items():
        assert fit.needed == plan(batch_size=256).peak + 2 * GB
        assert fit.spare == gpus.CARDS[name].memory - fit.needed
        assert fit.fits == (fit.spare >= 0)
    assert not found["t4"].fits and found["t4"].reason.endswith("GB short")
    assert found["a100-80gb"].fits


def test_a_card_without_units_for_the_precision_does_not_do():
    (fit,) = gpus.which_fits(plan(precision="bf16"), cards=[gpus.get_card("t4")])
    assert not fit.fits and fit.reason == "no bf16 units"


@pytest.mark.parametrize("settings", [{}, {"checkpointing": True}, {"precision": "fp16"}], ids=str)
def test_the_largest_batch_fits_and_one_more_does_not(settings):
    card = gpus.get_card("t4")
    most = gpus.largest_batch("bert-base", card, sequence_length=128, **settings)
    for size, fits in ((most, True), (most + 1, False)):
        assert gpus.which_fits(plan(batch_size=size, **settings), cards=[card])[0].fits is fits


def test_a_model_that_does_not_fit_at_all_has_no_batch():
    card = gpus.get_card("t4")
    assert gpus.largest_batch("llama-2-7b", card, sequence_length=64) == 0
    assert gpus.largest_batch("llama-2-7b", card, sequence_length=64, precision="bf16") == 0


def test_every_card_agrees_with_the_choice_of_precision():
    for card in gpus.CARDS.values():
        assert (
            card.precision
            == runtime.choose_precision("cuda", compute_capability=card.capability)[0]
        )
        assert card.precision in card.flops
        assert ("bf16" in card.flops) == (card.capability >= (8, 0))


def test_time_and_cost_by_hand():
    assert gpus.step_seconds(3 * 10**12, 10e12, utilisation=0.3) == pytest.approx(1.0)
    run = gpus.planned_run(36 * 10**12, 10, rate=1e10, price_per_hour=2.5)
    assert (run.seconds, run.cost) == (3600, 2.5)
    assert gpus.planned_run(10**12, 10, rate=1e12, seconds_per_step=0.5).seconds == 6
    assert gpus.planned_run(1, 1, rate=1.0).cost is None
    step, card = plan(), gpus.get_card("t4")
    # AdamW reads a weight, its gradient and two numbers of state, and writes three of these.
    update = 7 * 4 * step.trainable_count / 320e9
    products = step.flops / (8.1e12 * 0.3)
    found = gpus.step_seconds_on(step, card, utilisation=0.3)
    assert found == pytest.approx(products + update)


def test_the_rate_is_operations_by_the_median_second(monkeypatch):
    moments = iter([0, 9, 11, 20, 24, 30, 33])  # the warm-up is started only
    monkeypatch.setattr(gpus.time, "perf_counter", lambda: next(moments))
    calls = []
    rate = gpus.flops_per_second(lambda: calls.append(1), 300, warm_up=1, repeats=3)
    assert rate == 300 / 3 and len(calls) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gpus.get_card("t5"), "unknown card 't5'"),
        (lambda: gpus.get_card("a100-40"), "Did you mean 'a100-40gb'?"),
        (lambda: gpus.which_fits(plan(), reserve=-1), "reserve is -1"),
        (lambda: gpus.step_seconds(1, 1.0, utilisation=0), "utilisation is 0"),
        (lambda: gpus.step_seconds(1, 1.0, utilisation=1.5), "utilisation is 1.5"),
        (lambda: gpus.step_seconds(1, 0.0, utilisation=0.5), "flops_per_second is 0"),
        (lambda: gpus.planned_run(0, 1, rate=1.0), "flops is 0"),
        (lambda: gpus.planned_run(1, 0, rate=1.0), "steps is 0"),
        (lambda: gpus.planned_run(1, 1, rate=float("nan")), "rate is nan"),
        (lambda: gpus.planned_run(1, 1, rate=1.0, price_per_hour=-1), "price_per_hour is -1"),
        (lambda: gpus.flops_per_second(lambda: None, 1, repeats=0), "repeats 0"),
        (lambda: gpus.get_card("t4").peak_flops("bf16"), "no units for bf16"),
    ],
)
def test_bad_values_are_named(call, message):
    with pytest.raises(InvalidValue, match=re.escape(message)):
        call()


def test_a_task_s_run_is_the_sum_of_its_batches():
    planned = plan_task("news", card="t4", batch_size=16, examples=40, epochs=3)
    assert (planned.examples, planned.steps) == (40, 9)
    tokenizer = models.load_tokenizer("encoder")
    tokenizer.model_max_length = 96
    lengths = tasks.get("news").training_batches(tokenizer, 40).lengths
    order = batches.length_grouped_batches(lengths, 16, seed=42, epoch=0)
    each = [
        hardware.plan(
            "encoder", batch_size=len(rows), sequence_length=int(lengths[rows].max()),
            labels=5, dropout=0.0,
        ).flops
        for rows in order
    ]  # fmt: skip
    assert planned.flops == 3 * sum(each)
    widths = [lengths[rows].max() for rows in order]
    assert planned.mean_width == pytest.approx(np.average(widths, weights=[16, 16, 8]))


def test_consistency_passes_each_text_twice():
    planned = plan_task("reviews", card="t4", examples=32, batch_size=8)
    assert planned.passes == 2 and planned.plan.batch_size == 16


@pytest.mark.parametrize("task", ["messages", "entities", "relations", "questions"])
def test_every_task_has_a_plan(task):
    text = render(plan_task(task, card="a100-40gb", lora_rank=4, checkpointing=True))
    assert text.startswith(task) and "a100-40gb" in text and "rank 4" in text
    assert "checkpointing" in text and "not measured" in text


def test_the_table_says_what_the_plan_holds(capsys):
    call = ["plan", "news", "--examples", "64", "--card", "t4", "--price-per-hour", "0.5"]
    assert main([*call, "--model", "bert-large"]) == 0
    said = capsys.readouterr().out
    planned = plan_task("news", model="bert-large", examples=64, card="t4", price_per_hour=0.5)
    assert said == render(planned) + "\n"
    for number in (planned.plan.parameters, planned.plan.activations, planned.plan.peak):
        assert f"{number / 1e6:,.1f}" in said
    assert "cost" in said and f"{planned.cards[0].run.cost:.4f}" in said
    assert max(map(len, said.splitlines())) <= 110


@pytest.mark.parametrize(
    ("options", "unchecked"),
    [
        ({"card": "t4"}, True),  # chooses fp16
        ({"card": "a100-40gb"}, True),  # chooses bf16
        ({"card": "t4", "precision": "fp32"}, False),
    ],
    ids=str,
)
def test_memory_in_16_bits_on_a_card_is_said_to_be_unchecked(options, unchecked):
    said = render(plan_task("messages", examples=32, **options))
    assert ("Memory in fp16 or bf16 on a card: an unchecked prediction" in said) is unchecked
    assert max(map(len, said.splitlines())) <= 110


def test_measured_steps_give_a_time():
    threads = torch.get_num_threads()
    planned = plan_task("messages", examples=48, batch_size=8, card="t4", max_length=16,
                        measure=True)  # fmt: skip
    assert torch.get_num_threads() == threads
    assert planned.here.seconds == pytest.approx(planned.flops / planned.rate)
    assert 1e8 < planned.rate < 1e14
    assert "measured over" in render(planned)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nwes"], "Did you mean 'news'?"),
        (["news", "--card", "t5"], "unknown card 't5'"),
        (["news", "--model", "bert-basee"], "Did you mean 'bert-base'?"),
        (["news", "--model", "gpt2"], "fine-tune a BERT"),
        (["news", "--batch-size", "-1"], "batch_size is -1"),
        (["news", "--max-length", "-5"], "max_length is -5"),
        (["news", "--max-length", "9999"], "8 to 512 tokens"),
        (["news", "--epochs", "0"], "epochs is 0"),
        (["news", "--examples", "0"], "0"),
        (["news", "--precision", "fp8"], "precision is 'fp8'"),
        (["news", "--lora", "0"], "lora_rank is 0"),
        (["news", "--utilisation", "30"], "utilisation is 30"),
        (["news", "--price-per-hour", "-2", "--card", "t4"], "price_per_hour is -2"),
        (["news", "--measure", "--examples", "8", "--epochs", "1"], "at least two steps"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_call_is_explained_and_exits_2(arguments, message, capsys):
    assert main(["plan", *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err and "Traceback" not in said.err and not said.out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.02, "below 0.1 s"), (0.44, "0.4 s"), (9.96, "10 s"), (59.6, "1 min 00 s"),
     (185, "3 min 05 s"), (7800, "2 h 10 min"), (360000, "100 h 00 min")],
)  # fmt: skip
def test_durations_are_read_aloud(seconds, text):
    assert duration(seconds) == text
