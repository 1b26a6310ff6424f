"""Cards, time and cost, and the plan of a task's run as the command line prints it."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import batches, hardware, models, runtime, tasks
from helpers.cli.main import main
from helpers.errors import InvalidValue
from helpers.hardware import gpus, measure, planner
from helpers.hardware.gpus import GB
from helpers.hardware.plan_report import duration, render
from helpers.hardware.task_plan import plan_task


def plan(**settings):
    return hardware.plan(
        "bert-base", **{"batch_size": 32, "sequence_length": 128, "device": "cuda", **settings}
    )


def needing(gigabytes):
    """A plan whose step takes so much."""
    only = planner.Moment("update", int(gigabytes * GB), 0, 0, 0, 0)
    return replace(plan(batch_size=1), moments=(only,))


def test_what_fits_is_a_comparison_of_bytes():
    found = {fit.card.name: fit for fit in gpus.which_fits(needing(23))}
    names = {name for name, fit in found.items() if fit.fits}
    assert names == set(gpus.CARDS) - {"t4", "v100-16gb"}
    assert (found["t4"].spare, found["t4"].reason) == (-8 * GB, "8.0 GB short")
    assert (found["a10"].spare, found["a10"].reason) == (0, "0.0 GB to spare")
    assert found["h100"].reason == "56.0 GB to spare"


def test_a_card_without_units_for_the_precision_does_not_do():
    (fit,) = gpus.which_fits(plan(precision="bf16"), [gpus.get_card("t4")])
    assert not fit.fits and fit.reason == "no bf16 units"


@pytest.mark.parametrize("settings", [{}, {"checkpointing": True}, {"precision": "fp16"}], ids=str)
def test_the_largest_batch_fits_and_one_more_does_not(settings):
    card = gpus.get_card("t4")
    most = gpus.largest_batch("bert-base", card, sequence_length=128, **settings)
    for size, fits in ((most, True), (most + 1, False)):
        assert gpus.which_fits(plan(batch_size=size, **settings), [card])[0].fits is fits


def test_a_model_that_does_not_fit_at_all_has_no_batch():
    card = gpus.get_card("t4")
    assert gpus.largest_batch("llama-2-7b", card, sequence_length=64) == 0
    assert gpus.largest_batch("llama-2-7b", card, sequence_length=64, precision="bf16") == 0


# Memory in GB, bandwidth in GB/s, dense tensor-core TFLOP/s in 16 bits and plain ones in 32, copied
# from NVIDIA's data sheets, without "sparsity".
SHEETS = {
    "t4": (16, 320, 65, 8.1),
    "v100-16gb": (16, 900, 112, 14),
    "v100-32gb": (32, 900, 125, 15.7),
    "rtx-3090": (24, 936, 71, 35.6),
    "rtx-4090": (24, 1008, 165, 82.6),
    "a10": (24, 600, 125, 31.2),
    "l4": (24, 300, 121, 30.3),
    "a100-40gb": (40, 1555, 312, 19.5),
    "a100-80gb": (80, 2039, 312, 19.5),
    "h100": (80, 3350, 989, 67),
}


def test_cards_are_their_data_sheets_dense_figures():
    assert set(gpus.CARDS) == set(SHEETS)
    for name, (memory, bandwidth, half, single) in SHEETS.items():
        card = gpus.get_card(name)
        assert (card.memory, card.bandwidth) == (memory * 10**9, bandwidth * 10**9)
        assert card.peak_flops("fp16") / 1e12 == pytest.approx(half, rel=0.005)
        assert card.peak_flops("fp32") / 1e12 == pytest.approx(single, rel=0.005)
        if "bf16" in card.flops:
            assert card.flops["bf16"] == card.flops["fp16"]


def test_every_card_agrees_with_the_choice_of_precision():
    for card in gpus.CARDS.values():
        assert (
            card.precision
            == runtime.choose_precision("cuda", compute_capability=card.capability)[0]
        )
        assert card.precision in card.flops
        assert ("bf16" in card.flops) == (card.capability >= (8, 0))


def test_time_and_cost_by_hand():
    run = gpus.planned_run(36 * 10**12, 10, rate=1e10, price_per_hour=2.5)
    assert (run.seconds, run.cost) == (3600, 2.5)
    assert gpus.planned_run(10**12, 10, rate=1e12, seconds_per_step=0.5).seconds == 6
    assert gpus.planned_run(1, 1, rate=1.0).cost is None


def test_the_rate_is_operations_by_the_median_second(monkeypatch):
    moments = iter([0, 9, 11, 20, 24, 30, 33, 37])  # a first call of 9, then 9, 6 and 4
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(moments))
    calls = []
    rate = gpus.flops_per_second(lambda: calls.append(1), 300, repeats=3)
    assert rate == 300 / 6 and len(calls) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gpus.get_card("t5"), "unknown card 't5'"),
        (lambda: gpus.get_card("a100-40"), "Did you mean 'a100-40gb'?"),
        (lambda: gpus.planned_run(1, 1, rate=float("nan")), "rate is nan"),
        (lambda: gpus.planned_run(1, 1, rate=1.0, price_per_hour=-1), "price_per_hour is -1"),
        (lambda: gpus.get_card("t4").peak_flops("bf16"), "no units for bf16"),
    ],
)
def test_bad_values_are_named(call, message):
    with pytest.raises(InvalidValue, match=re.escape(message)):
        call()


def test_a_task_s_run_is_the_sum_of_its_batches():
    """The encoder: 6 layers of 12 x 384 x 384 weights, a pooler, 5 labels; 6 FLOPs per weight and
    token, 12 per number of a score, and no gradient goes below the word embeddings."""
    planned = plan_task("news", card="t4", batch_size=16, examples=40, epochs=3)
    assert (planned.examples, planned.steps) == (40, 9)
    tokenizer = models.load_tokenizer("encoder")
    tokenizer.model_max_length = 96
    lengths = tasks.get("news").training_batches(tokenizer, 40).lengths
    order = batches.length_grouped_batches(lengths, 16, seed=42, epoch=0)
    widths = [int(lengths[rows].max()) for rows in order]
    of_text = [6 * 6 * 12 * 384**2 * n + 6 * 12 * 384 * n * n + 6 * (384**2 + 5 * 384)
               for n in widths]  # fmt: skip
    each = [len(rows) * flops for rows, flops in zip(order, of_text, strict=True)]
    assert planned.flops == 3 * sum(each)
    assert planned.mean_width == pytest.approx(np.average(widths, weights=[16, 16, 8]))


def test_consistency_passes_each_text_twice():
    planned = plan_task("reviews", card="t4", examples=32, batch_size=8)
    assert planned.passes == 2 and planned.plan.settings.batch_size == 16


@pytest.mark.parametrize("task", ["messages", "entities", "relations", "questions"])
def test_every_task_has_a_plan(task):
    text = render(plan_task(task, card="a100-40gb", lora_rank=4, checkpointing=True))
    assert text.startswith(task) and "a100-40gb" in text and "rank 4" in text
    assert "checkpointing" in text and "not measured" in text


def test_the_table_by_hand(capsys):
    """BERT-large has 335,141,888 weights below the head, and 5 labels of 1,024 and 1 weights."""
    call = ["plan", "news", "--examples", "64", "--card", "t4", "--price-per-hour", "0.5"]
    assert main([*call, "--model", "bert-large", "--utilisation", "0.5"]) == 0
    out = capsys.readouterr().out
    count = 335_141_888 + 5 * 1025
    lines = dict(re.findall(r"^  (\S.*?)  +([\d,.]+)", out, flags=re.MULTILINE))
    assert lines["parameters"] == lines["gradients"] == f"{4 * count / 1e6:,.1f}"
    assert lines["optimiser state"] == f"{8 * count / 1e6:,.1f}"
    peak = float(lines["peak"].replace(",", "")) * 1e6
    assert 16 * count < peak < 16e9
    assert "335.1 M parameters" in out and "64 training texts" in out
    # 64 texts in batches of 32, twice: 6 N for each token of all layers, and the scores.
    tokens, width = 2 * 64 * 96, 1024
    products = 6 * 24 * 12 * width**2 * tokens + 3 * 4 * 24 * width * 96 * tokens
    written = float(re.search(r"([\d.]+) TFLOP in all", out)[1])
    assert written == pytest.approx(products / 1e12, rel=0.02)
    update = 4 * 7 * 4 * count / 320e9  # four steps, at the bandwidth
    seconds = products / (65e12 * 0.5) + update
    row = next(line for line in out.splitlines() if line.startswith("t4"))
    assert float(row.split()[-1]) == pytest.approx(seconds / 3600 * 0.5, abs=1e-4)
    assert max(map(len, out.splitlines())) <= 110


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
        (["news", "--utilisation", "0"], "utilisation is 0"),
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
