"""What ``fit()`` costs beside HF Trainer: same model, texts, batch size and epochs.

The speed of a machine drifts while it is measured. So the four trainings run in threads that
take turns, one optimiser step each, with a square matrix product in every round: all of them
meet the same machine, and ratios count. The first turn of each is left out (warm-up).
Run by ``make benchmark``; takes about three minutes on two quiet cores.
"""

import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

from helpers import corpora, evaluation, models
from helpers.batches import encode
from helpers.training import TrainingConfig, fit

EXAMPLES, BATCH_SIZE, EPOCHS, LEARNING_RATE, SEED = 640, 32, 1, 4e-4, 42
TEST_EXAMPLES = 1000
RECIPES = {  # name: (how texts are padded, TrainingArguments of its own, fit() must be this fast)
    "Trainer, padding to 128": ("max_length", {}, 5.0),
    "Trainer, dynamic padding": (False, {}, 1.6),
    "Trainer, grouped by length": (
        False,
        {"train_sampling_strategy": "group_by_length"},
        1.1,
    ),
}
FIT, PRODUCT = "fit()", "matrix product"
PRODUCT_SIZE, PRODUCTS = 1024, 20  # of each turn


class Turns:
    """Threads that run one at a time, and how long each held its turns."""

    def __init__(self) -> None:
        self.condition, self.waiting = threading.Condition(), []
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def run(self, jobs: dict[str, Callable[[Callable[[], None]], None]]) -> None:
        """Each job is called with a function that ends its turn and waits for the next."""
        self.waiting, self.errors = list(jobs), []
        threads = [threading.Thread(target=self._play, args=job) for job in jobs.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def _play(self, name: str, job: Callable) -> None:
        self._wait(name)
        try:
            job(lambda: self._end_turn(name))
        except BaseException as error:
            self.errors.append(error)
        finally:
            self._pass_on(name, leave=True)

    def _end_turn(self, name: str) -> None:
        self._pass_on(name)
        self._wait(name)

    def _wait(self, name: str) -> None:
        with self.condition:
            self.condition.wait_for(lambda: self.waiting[0] == name)
        self.started = time.perf_counter()

    def _pass_on(self, name: str, leave: bool = False) -> None:
        self.seconds[name].append(time.perf_counter() - self.started)
        with self.condition:
            self.waiting.remove(name)
            if not leave:
                self.waiting.append(name)
            self.condition.notify_all()


class EndTurn(TrainerCallback):
    def __init__(self, end_turn: Callable[[], None]) -> None:
        self.end_turn = end_turn

    def on_step_end(self, *arguments, **keywords) -> None:
        self.end_turn()


def classifier():
    """The published encoder with its own settings, a dropout of 0.1 among them."""
    return models.load_classifier("encoder", labels=["negative", "positive"])


def train_with_trainer(model, tokenizer, rows, recipe: str, folder, end_turn) -> None:
    padding, settings, _ = RECIPES[recipe]
    encoded = tokenizer(list(rows["text"]), truncation=True, max_length=128, padding=padding)
    examples = [
        {"input_ids": ids, "attention_mask": mask, "label": label}
        for ids, mask, label in zip(
            encoded["input_ids"], encoded["attention_mask"], rows["label"], strict=True
        )
    ]
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        warmup_steps=0.1,
        weight_decay=0.01,
        seed=SEED,
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **settings,
    )
    Trainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[EndTurn(end_turn)],
    ).train()


def multiply(end_turn: Callable[[], None]) -> None:
    a, b = torch.rand(2, PRODUCT_SIZE, PRODUCT_SIZE)
    for _ in range(EXAMPLES // BATCH_SIZE * EPOCHS):
        for _ in range(PRODUCTS):
            a @ b
        end_turn()


def step_operations(model, lengths: np.ndarray) -> float:
    """Floating-point operations of one forward and backward pass over texts of ``lengths``.

    Every weight of a layer takes part in one multiplication and one addition per word piece, and
    in twice as many on the way back: 6 per weight and word piece (Kaplan et al. 2020, table 1),
    embeddings excluded, since looking up is no arithmetic; the pooler and the head see one word
    piece a text. Attention adds, per layer and text, 2 T^2 H for the scores and as much for the
    weighted sum, times 3. Padding, norms, activations and the optimiser count as nothing.
    """
    weights = sum(p.numel() for p in model.bert.encoder.parameters())
    once = sum(p.numel() for p in [*model.bert.pooler.parameters(), *model.classifier.parameters()])
    attention = 12 * model.config.num_hidden_layers * model.config.hidden_size * lengths**2
    return float(np.sum(6 * weights * lengths + 6 * once + attention))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Throughput (examples/s), predictions on the test texts, and GFLOP/s of fit and product."""
    data = corpora.load("reviews", examples=EXAMPLES)
    tokenizer = models.load_tokenizer("encoder")
    rows, test = data["train"], data["test"].select(range(TEST_EXAMPLES))
    train = encode(tokenizer, rows["text"], rows["label"], label_count=2)
    judged = encode(tokenizer, test["text"], test["label"], label_count=2)
    trained = {name: classifier() for name in [FIT, *RECIPES]}
    config = TrainingConfig(
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        seed=SEED,
        device="cpu",
        precision="fp32",
        progress=False,
    )

    def train_with_fit(end_turn) -> None:
        model = trained[FIT]
        fit(model, train, config=config, callbacks=[lambda *arguments: end_turn()])

    def job(recipe: str) -> Callable:
        folder = tmp_path_factory.mktemp("trainer")
        return lambda end_turn: train_with_trainer(
            trained[recipe], tokenizer, rows, recipe, folder, end_turn
        )

    turns = Turns()
    turns.run({PRODUCT: multiply, FIT: train_with_fit} | {name: job(name) for name in RECIPES})
    steps = EXAMPLES // BATCH_SIZE * EPOCHS
    share = (steps - 1) / steps  # of the work: without the first turn
    seconds = {name: sum(times[1:]) for name, times in turns.seconds.items()}
    product = 2 * PRODUCT_SIZE**3 * PRODUCTS * (steps - 1) / seconds[PRODUCT]
    speed = {name: EXAMPLES * EPOCHS * share / seconds[name] for name in trained}
    operations = step_operations(trained[FIT], train.lengths) * EPOCHS * share / seconds[FIT]
    predictions = {name: evaluation.predict(model, judged) for name, model in trained.items()}
    return speed, predictions, operations / 1e9, product / 1e9


def test_fit_is_faster_than_trainer_at_equal_accuracy(measured, capsys):
    speed, predictions, operations, product = measured
    intervals, accuracy = {}, {}
    for name, found in predictions.items():
        accuracy[name] = float(np.mean(found.classes == found.labels))
        intervals[name] = evaluation.bootstrap_interval(found.labels, found.classes, "accuracy")
    with capsys.disabled():
        print(f"\n{'':28}examples/s   fit() is   needed   accuracy (95 %)")
        for name in speed:
            needed = f"{RECIPES[name][2]:.1f} x" if name in RECIPES else ""
            low, high = intervals[name]
            print(
                f"{name:28}{speed[name]:10.1f}{speed[FIT] / speed[name]:9.2f} x{needed:>9}"
                f"   {accuracy[name]:.3f} ({low:.3f} to {high:.3f})"
            )
        print(
            f"fit() {operations:.0f} GFLOP/s of {product:.0f} of a square product: "
            f"{operations / product:.2f}, needed 0.60"
        )
    for name, (_, _, needed) in RECIPES.items():
        assert speed[FIT] / speed[name] >= needed, name
        assert intervals[FIT][1] >= intervals[name][0], f"less accurate than {name}"
    assert min(accuracy.values()) > 0.6


def test_fit_uses_most_of_the_processor(measured):
    _, _, operations, product = measured
    assert operations / product >= 0.6


def test_importing_helpers_takes_no_time():
    code = "import time; t = time.perf_counter(); import helpers; print(time.perf_counter() - t)"
    done = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    assert min(float(run.stdout) for run in done) < 0.1
