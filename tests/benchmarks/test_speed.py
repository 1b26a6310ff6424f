"""What ``fit()`` costs next to HF Trainer: same model, texts, batch size and epochs.

The speed of a machine drifts while it is measured. So the four trainings run in threads that
take turns, one optimizer step each, with a square matrix product in every round: all of them
meet the same machine, and ratios count. The first turn of each is left out (warm-up).

Everything is done with three seeds (first weights of the head, order, dropout). A recipe counts as
equally accurate if the 95 % interval of the difference between the mean accuracies on the same
test sentences contains 0 *and* is narrower than 0.10: a wide interval contains everything.
Run by ``make benchmark``; takes about ten minutes on two quiet cores. On a busy machine two
threads wait for each other; OMP_NUM_THREADS=1 keeps the ratios meaningful there.
"""

import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

from helpers import corpora, evaluation, models
from helpers.batches import encode
from helpers.training import TrainingConfig, fit

# At a rate of 4e-4 one of the Trainer's nine runs fell to chance, and nothing could be compared.
EXAMPLES, BATCH_SIZE, EPOCHS, LEARNING_RATE = 640, 32, 1, 2e-4
SEEDS, TEST_EXAMPLES, WIDEST_INTERVAL = (42, 43, 44), 1000, 0.10
RECIPES = {  # name: (how texts are padded, TrainingArguments of its own, fit() must be this fast)
    "Trainer, padding to 128": ("max_length", {}, 5.0),
    "Trainer, dynamic padding": (False, {}, 1.7),
    "Trainer, grouped by length": (
        False,
        {"train_sampling_strategy": "group_by_length"},
        1.1,
    ),
}
FIT, PRODUCT = "fit()", "matrix product"
PRODUCT_SIZE, PRODUCTS = 1024, 20  # of each turn
NEEDED_SHARE = 0.72  # of the speed of a matrix product


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


def classifier(seed: int):
    """The published encoder with its own settings, a dropout of 0.1 among them."""
    return models.load_classifier("encoder", labels=["negative", "positive"], seed=seed)


def train_with_trainer(model, tokenizer, rows, recipe: str, seed: int, folder, end_turn) -> None:
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
        seed=seed,
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
    embeddings excluded, since looking up isn't arithmetic; the pooler and the head see one word
    piece per text. Attention adds, per layer and text, 2 T^2 H for the scores and as much for the
    weighted sum, times 3. Padding, norms, activations and the optimiser count as nothing.
    """
    weights = sum(p.numel() for p in model.bert.encoder.parameters())
    once = sum(p.numel() for p in [*model.bert.pooler.parameters(), *model.classifier.parameters()])
    attention = 12 * model.config.num_hidden_layers * model.config.hidden_size * lengths**2
    return float(np.sum(6 * weights * lengths + 6 * once + attention))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Throughput (examples/s), which test texts are right (seeds, texts), and the GFLOP/s of fit
    and of the matrix product."""
    data = corpora.load("reviews", examples=EXAMPLES)
    tokenizer = models.load_tokenizer("encoder")
    rows, test = data["train"], data["test"].select(range(TEST_EXAMPLES))
    train = encode(tokenizer, rows["text"], rows["label"], label_count=2)
    judged = encode(tokenizer, test["text"], test["label"], label_count=2)
    seconds: dict[str, float] = defaultdict(float)
    right: dict[str, list[np.ndarray]] = defaultdict(list)
    for seed in SEEDS:
        trained = {name: classifier(seed) for name in [FIT, *RECIPES]}
        jobs = {PRODUCT: multiply, FIT: partial(train_with_fit, trained[FIT], train, seed)}
        for name in RECIPES:
            folder = tmp_path_factory.mktemp("trainer")
            jobs[name] = partial(
                train_with_trainer, trained[name], tokenizer, rows, name, seed, folder
            )
        turns = Turns()
        turns.run(jobs)
        for name, times in turns.seconds.items():
            seconds[name] += sum(times[1:])
        for name, model in trained.items():
            found = evaluation.predict(model, judged)
            right[name].append(found.classes == found.labels)
    steps = EXAMPLES // BATCH_SIZE * EPOCHS
    share = len(SEEDS) * (steps - 1) / steps  # of one training's work: without the first turns
    product = 2 * PRODUCT_SIZE**3 * PRODUCTS * steps * share / seconds[PRODUCT]
    speed = {name: EXAMPLES * EPOCHS * share / seconds[name] for name in right}
    operations = step_operations(trained[FIT], train.lengths) * EPOCHS * share / seconds[FIT]
    return speed, {n: np.stack(r) for n, r in right.items()}, operations / 1e9, product / 1e9


def train_with_fit(model, train, seed: int, end_turn) -> None:
    config = TrainingConfig(
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        seed=seed,
        device="cpu",
        precision="fp32",
        progress=False,
    )
    fit(model, train, config=config, callbacks=[lambda *arguments: end_turn()])


def paired_difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """Mean accuracy of ours minus theirs, and its 95 % interval: other seeds and other sentences
    might have been drawn, so both are resampled, the same ones for both. ours, theirs: (seeds,
    sentences), whether each is right."""
    difference, random = ours.astype(float) - theirs, np.random.default_rng(0)
    seeds, sentences = difference.shape
    draws = [
        difference[random.integers(seeds, size=seeds)]
        .mean(axis=0)[random.integers(sentences, size=sentences)]
        .mean()
        for _ in range(2000)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def test_fit_is_faster_than_trainer_at_equal_accuracy(measured, capsys):
    speed, right, operations, product = measured
    differences = {name: paired_difference(right[FIT], right[name]) for name in RECIPES}
    with capsys.disabled():
        print(f"\n{'':28}examples/s   fit() is   needed   accuracy by seed      fit() minus it")
        for name in speed:
            needed = f"{RECIPES[name][2]:.1f} x" if name in RECIPES else ""
            accuracies = " ".join(f"{value:.3f}" for value in right[name].mean(axis=1))
            paired = "   {:+.3f} ({:+.3f} to {:+.3f})".format(*differences.get(name, [0.0] * 3))
            print(
                f"{name:28}{speed[name]:10.1f}{speed[FIT] / speed[name]:9.2f} x{needed:>9}"
                f"   {accuracies}{paired}"
            )
        print(
            f"fit() {operations:.0f} GFLOP/s of {product:.0f} of a square product: "
            f"{operations / product:.2f}, needed {NEEDED_SHARE}"
        )
    for name, (_, low, high) in differences.items():
        assert low <= 0 <= high, f"another accuracy than {name}"
        assert high - low < WIDEST_INTERVAL, f"too uncertain next to {name}"
    assert min(accuracy.mean() for accuracy in right.values()) > 0.6
    for name, (_, _, needed) in RECIPES.items():
        assert speed[FIT] / speed[name] >= needed, name


def test_fit_uses_most_of_the_processor(measured):
    _, _, operations, product = measured
    assert operations / product >= NEEDED_SHARE


def test_importing_helpers_takes_no_time():
    code = "import time; t = time.perf_counter(); import helpers; print(time.perf_counter() - t)"
    done = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    assert min(float(run.stdout) for run in done) < 0.1
