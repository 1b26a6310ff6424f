"""The loop against loops written by hand, and what it does when things go wrong."""

import json
import math
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers
from tiny import one_thread  # noqa: F401 (used by every test)

from helpers.batches import EncodedTexts, MaskedTexts, encode, length_grouped_batches
from helpers.errors import CourseError, InvalidValue, NonFiniteLoss
from helpers.training import fit, steps
from helpers.training.config import History, TrainingConfig, learning_rate_at
from helpers.training.speed import EmbeddingGradient, ExampleMasks

ROOT = Path(__file__).parents[1]


def config(**settings) -> TrainingConfig:
    plain = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "progress": False}
    return TrainingConfig(**plain | settings)


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def masked_texts(examples=40) -> MaskedTexts:
    tokenizer = tiny.tokenizer()
    return MaskedTexts(encode(tokenizer, tiny.texts(examples)), tokenizer)


def test_overfits_one_batch():
    model, data = tiny.classifier(), tiny.encoded(8)
    history = fit(model, data, data, config(epochs=60, learning_rate=5e-3))
    assert history.losses[0] > 1.0
    assert history.losses[-1] < 0.1
    assert history.evaluations[-1]["accuracy"] == 1.0


@pytest.mark.parametrize("examples", [1, 8])
def test_first_loss_is_the_one_by_hand(examples):
    model, data = tiny.classifier(), tiny.encoded(examples)
    logits = model(**{k: v for k, v in data.batch(range(examples)).items() if k != "labels"}).logits
    by_hand = -torch.log_softmax(logits, -1)[range(examples), data.labels].mean()
    history = fit(model, data, config=config(max_steps=1))
    assert history.losses == [pytest.approx(by_hand.item(), abs=1e-6)]


def plain_loop(model, data, settings: TrainingConfig) -> list[float]:
    """What ``fit`` should do, in plain torch with transformers' schedule."""
    names = {True: [], False: []}
    for name, parameter in model.named_parameters():
        names[name.endswith("bias") or "LayerNorm" in name].append(parameter)
    groups = [
        {"params": names[False], "weight_decay": settings.weight_decay},
        {"params": names[True], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, foreach=False)
    steps = settings.epochs * math.ceil(len(data) / settings.batch_size)
    schedule = transformers.get_linear_schedule_with_warmup(
        optimizer, math.ceil(settings.warmup_fraction * steps), steps
    )
    model.train()
    losses = []
    for epoch in range(settings.epochs):
        for rows in length_grouped_batches(
            data.lengths, settings.batch_size, seed=settings.seed, epoch=epoch
        ):
            loss = model(**data.batch(rows)).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("max_grad_norm", [0.5, 1e6])
def test_weights_equal_those_of_a_plain_loop(max_grad_norm):
    data, settings = tiny.encoded(60), config(epochs=3, max_grad_norm=max_grad_norm)
    model, reference = tiny.classifier(), tiny.classifier()
    expected = plain_loop(reference, data, settings)
    history = fit(model, data, config=settings)
    assert history.losses == pytest.approx(expected, abs=1e-5)
    assert (weights(model) - weights(reference)).abs().max() < 1e-5
    assert (weights(model) - weights(tiny.classifier())).abs().max() > 1e-2


def test_layer_decay_equals_rates_written_out_by_hand():
    """One step of fit against torch's AdamW with a group of its own for every layer."""
    rates = {"embeddings": 1e-3 / 8, "layer.0": 1e-3 / 4, "layer.1": 1e-3 / 2, "": 1e-3}
    data, settings = tiny.encoded(8), config(max_steps=1, layer_decay=0.5, weight_decay=0.1)
    settings = replace(settings, schedule="constant", warmup_fraction=0.0)
    model, reference = tiny.classifier(), tiny.classifier()
    fit(model, data, config=settings)
    groups = []
    for name, parameter in reference.named_parameters():
        rate = next(rate for part, rate in rates.items() if part in name)
        decay = 0.0 if name.endswith("bias") or "LayerNorm" in name else 0.1
        groups.append({"params": [parameter], "lr": rate, "weight_decay": decay})
    optimizer = torch.optim.AdamW(groups, foreach=False)
    reference.train()(**data.batch(range(8))).loss.backward()
    torch.nn.utils.clip_grad_norm_(reference.parameters(), settings.max_grad_norm)
    optimizer.step()
    assert (weights(model) - weights(reference)).abs().max() < 1e-6
    moved = (weights(model) - weights(tiny.classifier())).abs().max()
    assert moved == pytest.approx(1e-3, rel=0.2)


def test_layer_decay_reaches_a_decoder_and_needs_layers():
    names = [name for name, _ in tiny.causal_model().named_parameters()]
    scales = steps.layer_scales(names, 0.5)
    found = {name: scales[f"transformer.{name}.weight"] for name in ("wte", "wpe", "ln_f")}
    assert found == {"wte": 0.125, "wpe": 0.125, "ln_f": 1.0}
    assert scales["transformer.h.1.attn.c_attn.weight"] == 0.5
    assert set(steps.layer_scales(["a.weight", "b"], 1.0).values()) == {1.0}
    with pytest.raises(InvalidValue, match=r"layer_decay is 0\.9.*Set it to 1"):
        steps.layer_scales(["a.weight", "b"], 0.9)


@pytest.mark.parametrize(
    ("make_model", "make_data"),
    [
        (tiny.classifier, tiny.encoded),
        (tiny.masked_model, masked_texts),
        (tiny.causal_model, tiny.blocks),
    ],
    ids=["classifier", "masked", "causal"],
)
def test_accumulation_changes_nothing(make_model, make_data):
    """One batch of 8, 2 x 4 and 8 x 1: also where micro-batches hold different numbers of
    items, so that a mean of means would differ."""
    runs = []
    for accumulation in (1, 2, 8):
        model = make_model()
        runs.append((fit(model, make_data(), config=config(accumulation=accumulation)), model))
    for history, model in runs[1:]:
        assert history.losses == pytest.approx(runs[0][0].losses, abs=2e-6)
        assert (weights(model) - weights(runs[0][1])).abs().max() < 2e-5


@pytest.mark.parametrize("make_data", [tiny.encoded, masked_texts])
def test_accumulation_changes_nothing_with_dropout(make_data):
    make_model = tiny.classifier if make_data is tiny.encoded else tiny.masked_model
    runs = []
    for accumulation in (1, 2, 8):
        model = make_model(dropout=0.3, attention_dropout=0.0)
        runs.append((fit(model, make_data(), config=config(accumulation=accumulation)), model))
    for history, model in runs[1:]:
        assert history.losses == pytest.approx(runs[0][0].losses, abs=2e-6)
        assert (weights(model) - weights(runs[0][1])).abs().max() < 2e-5
    without = make_model()
    fit(without, make_data(), config=config())
    assert (weights(without) - weights(runs[0][1])).abs().max() > 1e-3


def test_two_passes_without_dropout_are_one():
    """Both passes agree, the second term is 0, and the mean of two equal losses is the loss."""
    models = [tiny.classifier(), tiny.classifier()]
    histories = [
        fit(model, tiny.encoded(), config=config(consistency=weight))
        for model, weight in zip(models, (0.0, 5.0), strict=True)
    ]
    assert histories[1].losses == pytest.approx(histories[0].losses, abs=1e-6)
    assert (weights(models[0]) - weights(models[1])).abs().max() < 2e-5


def test_consistency_is_the_loss_by_hand_and_does_not_depend_on_accumulation():
    """With dropout before the head alone, both passes' logits follow from their masks."""
    settings = config(max_steps=1, batch_size=6, consistency=2.0)
    losses = []
    for accumulation in (1, 2, 6):
        model = tiny.classifier(labels=3, classifier_dropout=0.5)
        chosen = replace(settings, accumulation=accumulation)
        losses += fit(model, tiny.encoded(6), config=chosen).losses
    model, data = tiny.classifier(labels=3, classifier_dropout=0.5), tiny.encoded(6)
    rows = length_grouped_batches(data.lengths, 6, seed=settings.seed, epoch=0)[0]
    batch = data.batch(rows)
    labels = batch.pop("labels")
    pooled = model.bert(**batch).pooler_output
    masks = ExampleMasks(model)
    model.dropout.train()
    masks.begin(steps.derived_seed(settings.seed, 0, steps.DROPOUT), 12)
    masks.take(range(12))
    log_p = model.classifier(model.dropout(torch.cat([pooled, pooled]))).log_softmax(-1)
    p, q = log_p.chunk(2)
    apart = ((p.exp() - q.exp()) * (p - q)).sum(-1).mean() / 2
    by_hand = -log_p[range(12), torch.cat([labels, labels])].mean() + 2.0 * apart
    assert apart > 1e-5
    assert losses == pytest.approx([by_hand.item()] * 3, abs=1e-5)


def test_consistency_is_for_classes():
    blocks = tiny.blocks()
    with pytest.raises(InvalidValue, match="consistency is 1"):
        fit(tiny.causal_model(), blocks, config=config(consistency=1))


def test_masked_loss_is_the_sum_over_the_batch_divided_by_its_items():
    data, model = masked_texts(8), tiny.masked_model()
    settings = config(max_steps=1, accumulation=8)
    rows = length_grouped_batches(data.lengths, 8, seed=settings.seed, epoch=0)[0]
    seed = steps.derived_seed(settings.seed, 0, steps.MASKING)
    batch = data.batch(rows, torch.Generator().manual_seed(seed))
    labels = batch.pop("labels")
    log_likelihoods = torch.log_softmax(model(**batch).logits, -1)
    chosen = labels != -100
    by_hand = -log_likelihoods[chosen].gather(1, labels[chosen][:, None]).mean()
    assert fit(model, data, config=settings).losses == [pytest.approx(by_hand.item(), abs=1e-5)]


def test_a_batch_without_a_single_masked_word_does_no_harm():
    tokenizer = tiny.tokenizer()
    data = MaskedTexts(encode(tokenizer, ["w5 w6"] * 8), tokenizer, probability=1e-9)
    model = tiny.masked_model()
    history = fit(model, data, data, config(batch_size=4, weight_decay=0.0))
    assert history.losses == [0.0] * 4
    assert torch.equal(weights(model), weights(tiny.masked_model()))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    def train(seed):
        model = tiny.classifier(dropout=0.1)
        fit(model, tiny.encoded(), config=config(seed=seed))
        return weights(model)

    assert torch.equal(train(1), train(1))
    assert not torch.equal(train(1), train(2))


def test_dropout_is_on_while_training_and_off_afterwards():
    data = tiny.encoded(8)
    without, dropped = tiny.classifier(), tiny.classifier(dropout=0.5)
    losses = [fit(m, data, config=config(max_steps=1)).losses[0] for m in (without, dropped)]
    assert losses[0] != losses[1]
    batch = data.batch([0, 1])
    assert not dropped.training
    assert torch.equal(dropped(**batch).logits, dropped(**batch).logits)


def test_every_example_exactly_once_an_epoch():
    class Recording(EncodedTexts):
        def batch(self, indices, generator=None):
            seen.append(list(indices))
            return super().batch(indices, generator)

    seen, plain = [], tiny.encoded(45)
    data = Recording(plain.ids, plain.offsets, plain.labels)
    history = fit(tiny.classifier(), data, config=config(epochs=2))
    assert len(history.steps) == 12
    for epoch in (seen[:6], seen[6:]):
        assert sorted(i for rows in epoch for i in rows) == list(range(45))
    assert seen[:6] != seen[6:]
    assert [round(step["epoch"], 3) for step in history.steps[-2:]] == [1.833, 2.0]


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_learning_rate_equals_transformers(name):
    get = getattr(transformers, f"get_{name}_schedule_with_warmup")
    for total, fraction in ((1, 0.1), (37, 0.1), (50, 0.0), (10, 1.0)):
        settings = config(schedule=name, warmup_fraction=fraction, learning_rate=1e-3)
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-3)
        schedule = get(optimizer, math.ceil(fraction * total), total)
        for step in range(total):
            expected = schedule.get_last_lr()[0]
            assert learning_rate_at(step, total, settings) == pytest.approx(expected, abs=1e-12)
            optimizer.step()
            schedule.step()


def test_constant_schedule_and_the_rates_in_the_history():
    settings = config(schedule="constant", warmup_fraction=0.25)
    history = fit(tiny.classifier(), tiny.encoded(32), config=settings)
    rates = [step["learning_rate"] for step in history.steps]
    assert rates == pytest.approx([0.0, 5e-4, *[1e-3] * 6])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"layer_decay": 0}, "layer_decay is 0"),
        ({"layer_decay": 1.1}, "layer_decay is 1.1"),
        ({"consistency": -1}, "consistency is -1"),
        ({"epochs": math.inf}, "epochs is inf"),
        ({"epochs": "2"}, "epochs is '2'"),
        ({"batch_size": 0}, "batch_size is 0; it must be a whole number, at least 1"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"batch_size": True}, "batch_size is True"),
        ({"learning_rate": -1}, "learning_rate is -1; it must be above 0, at most 1"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"weight_decay": 2}, "weight_decay is 2"),
        ({"warmup_fraction": 1.5}, "warmup_fraction is 1.5"),
        ({"schedule": "step"}, "one of linear, cosine, constant"),
        ({"schedule": None}, "schedule is None"),
        ({"max_grad_norm": 0}, "max_grad_norm is 0"),
        ({"accumulation": 0}, "accumulation is 0"),
        ({"accumulation": 9}, "more than the 8 examples"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"evaluate_every": 0}, "evaluate_every is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"metric": ""}, "metric is ''"),
        ({"keep_best": None}, "keep_best is None"),
        ({"progress": 1}, "progress is 1"),
        ({"checkpoint_folder": 3}, "checkpoint_folder is 3"),
        ({"checkpoint_every": 0, "checkpoint_folder": "x"}, "checkpoint_every is 0"),
        ({"checkpoint_every": 5}, "checkpoint_folder is None"),
        ({"resume": True}, "checkpoint_folder is None"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(InvalidValue) as error:
        config(**settings)
    assert message in str(error.value)


def test_settings_cannot_be_changed():
    with pytest.raises(AttributeError):
        config().epochs = 3


def test_evaluation_is_over_all_items_and_equals_the_model():
    model, data = tiny.classifier(), tiny.encoded(50)
    history = fit(model, tiny.encoded(8), data, config(epochs=1, keep_best=False))
    with torch.no_grad():
        output = model(**data.batch(range(50)))
    scores = history.evaluations[-1]
    assert scores["loss"] == pytest.approx(float(output.loss), abs=1e-5)
    assert scores["accuracy"] == np.mean(output.logits.argmax(-1).numpy() == data.labels)
    assert scores["step"] == 1


def test_evaluation_of_a_language_model_keeps_no_logits_and_weighs_by_items():
    model, data = tiny.masked_model(), masked_texts(40)
    once = fit(model, data, data, config(epochs=1, accumulation=8, keep_best=False))
    again = fit(tiny.masked_model(), data, data, config(epochs=1, keep_best=False))
    assert once.evaluations[0].keys() == {"step", "loss"}
    assert once.evaluations[0]["loss"] == pytest.approx(again.evaluations[0]["loss"], abs=1e-5)


def test_best_weights_are_kept_and_patience_ends_the_run():
    """A learning rate far too high soon makes things worse."""
    model, data = tiny.classifier(), tiny.encoded(40)
    settings = config(epochs=30, learning_rate=0.5, warmup_fraction=0, evaluate_every=1, patience=3)
    history = fit(model, data, data, settings)
    losses = [scores["loss"] for scores in history.evaluations]
    assert history.best_step == 1 + int(np.argmin(losses))
    assert len(losses) == history.best_step + 3 < 150
    with torch.no_grad():
        kept = float(model(**data.batch(range(40))).loss)
    assert kept == pytest.approx(min(losses), abs=1e-5)
    assert losses[-1] > min(losses)


def test_a_score_that_is_not_a_number_is_never_the_best():
    history, settings = History(), config(patience=2)
    improved = [
        history.add_evaluation({"step": step, "loss": loss}, settings)
        for step, loss in enumerate([math.nan, 2.0, math.nan, 1.0, 1.5, math.nan], 1)
    ]
    assert improved == [False, True, False, True, False, False]
    assert history.best_step == 4 and history.patience_is_over(settings)
    assert not history.patience_is_over(config(patience=3))


def test_a_metric_that_the_model_lacks_is_said_before_training():
    data, called = tiny.blocks(), []
    with pytest.raises(InvalidValue, match="metric is 'accuracy'; there are: loss"):
        fit(
            tiny.causal_model(),
            data,
            data,
            config(metric="accuracy"),
            callbacks=[lambda *arguments: called.append(1)],
        )
    assert not called


@pytest.mark.parametrize("settings", [{"patience": 1}, {"metric": "accuracy"}])
def test_judging_needs_validation_examples(settings):
    with pytest.raises(InvalidValue, match="need validation examples"):
        fit(tiny.classifier(), tiny.encoded(), config=config(**settings))


def test_callbacks_see_every_step_and_can_end_the_run():
    def callback(step, model, history):
        seen.append((step, len(history.losses)))
        return step == 3

    seen = []
    fit(tiny.classifier(), tiny.encoded(), config=config(), callbacks=[callback])
    assert seen == [(1, 1), (2, 2), (3, 3)]


def test_data_that_do_not_fit_the_model():
    none = EncodedTexts(np.empty(0, np.int32), np.zeros(1, np.int64), np.empty(0, np.int64))
    with pytest.raises(InvalidValue, match="no training examples"):
        fit(tiny.classifier(), none, config=config())
    with pytest.raises(InvalidValue, match="label 2 of validation example"):
        fit(tiny.classifier(labels=2), tiny.encoded(labels=2), tiny.encoded(), config())
    with pytest.raises(InvalidValue, match="30 tokens, the model has 24 positions"):
        fit(tiny.causal_model(), tiny.blocks(length=30), config=config())
    plain = tiny.encoded()
    unlabelled = EncodedTexts(plain.ids, plain.offsets)
    with pytest.raises(InvalidValue, match="no labels"):
        fit(tiny.classifier(), unlabelled, config=config())


def test_frozen_weights_stay_and_a_wholly_frozen_model_is_refused():
    model = tiny.classifier()
    model.bert.requires_grad_(False)
    before = {name: p.clone() for name, p in model.named_parameters()}
    fit(model, tiny.encoded(), config=config())
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    model.requires_grad_(False)
    with pytest.raises(InvalidValue, match="requires_grad"):
        fit(model, tiny.encoded(), config=config())


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(tmp_path):
    def poison(step, model, history):
        if step == 5:
            with torch.no_grad():
                model.classifier.bias[0] = float("nan")
            poisoned.append(weights(model))

    model, poisoned = tiny.classifier(), []
    settings = config(checkpoint_every=2, checkpoint_folder=tmp_path)
    with pytest.raises(NonFiniteLoss) as error:
        fit(model, tiny.encoded(), config=settings, callbacks=[poison])
    message = str(error.value)
    rows = length_grouped_batches(tiny.encoded().lengths, 8, seed=42, epoch=0)[5]
    assert "step 6" in message and "loss is nan" in message and str(rows.tolist()) in message
    assert "step-00000004" in message and "learning_rate (now 0.001)" in message
    assert torch.equal(weights(model).isnan(), poisoned[0].isnan())
    assert not model.training and not model.bert.embeddings.word_embeddings.sparse


def test_a_gradient_that_is_not_finite_stops_too():
    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient * float("inf")

    model = tiny.classifier()
    model.classifier.register_forward_hook(lambda module, inputs, output: Overflow.apply(output))
    with pytest.raises(NonFiniteLoss, match="gradient is not finite"):
        fit(model, tiny.encoded(), config=config())


def run_out_of_memory(model, above: int, error: Exception) -> None:
    """The model's forward pass raises ``error`` with more than ``above`` examples in training."""

    def check(module, arguments, keywords):
        if module.training and len(keywords["input_ids"]) > above:
            raise error

    model.register_forward_pre_hook(check, with_kwargs=True)


CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: ..."


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU_MESSAGE), MemoryError()],
    ids=["cuda", "cpu", "python"],
)
def test_out_of_memory_halves_the_micro_batch_and_gives_the_same_result(error, capsys):
    roomy, tight = tiny.classifier(), tiny.classifier()
    run_out_of_memory(tight, 2, error)
    data = tiny.encoded()
    expected = fit(roomy, data, data, config())
    history = fit(tight, data, data, config())
    assert history.losses == pytest.approx(expected.losses, abs=2e-6)
    assert (weights(tight) - weights(roomy)).abs().max() < 2e-5
    assert len(history.events) == 2
    assert "with 8 examples at once; going on with accumulation 2" in history.events[0]
    assert "with 4 examples at once; going on with accumulation 4" in history.events[1]
    assert history.events[0] in capsys.readouterr().err


def test_out_of_memory_with_a_single_example_is_explained():
    model = tiny.classifier()
    run_out_of_memory(model, 0, torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(CourseError, match=r"with 1 example.*max_length"):
        fit(model, tiny.encoded(), config=config())


def test_other_errors_of_the_model_come_through():
    model = tiny.classifier()
    run_out_of_memory(model, 0, RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        fit(model, tiny.encoded(), config=config())


def test_runs_leave_nothing_behind():
    """Precision may differ from run to run, and the model is an ordinary one in between."""
    model, data = tiny.classifier(), tiny.encoded()
    forward = model.forward
    for precision in ("fp32", "bf16", "fp32"):
        history = fit(model, data, data, config(precision=precision, device="cpu"))
        assert history.evaluations[-1]["loss"] < 1.2
        assert model.forward == forward
        assert model(**data.batch([0])).logits.dtype == torch.float32
        assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())
        assert not model.training
    assert not model.bert.embeddings.word_embeddings.sparse
    assert not model.bert.embeddings.word_embeddings._forward_pre_hooks
    assert {type(m) for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {
        torch.nn.Dropout
    }


def test_embedding_gradient_is_the_ordinary_one():
    data = tiny.encoded()
    plain, special = tiny.classifier(), tiny.classifier()
    rows = EmbeddingGradient(special)
    assert rows.table is special.bert.embeddings.word_embeddings
    for indices in ([0, 1, 2], [5, 3], [7]):
        for model in (plain, special):
            model(**data.batch(indices)).loss.backward()
        for ordinary, own in zip(plain.parameters(), special.parameters(), strict=True):
            assert torch.allclose(ordinary.grad, own.grad, atol=1e-7)
        plain.zero_grad()
        rows.clear(list(special.parameters()))
        assert not rows.table.weight.grad.any()
    tied = tiny.causal_model()
    assert EmbeddingGradient(tied).table is None


def test_progress_shows_loss_speed_and_time_left_or_nothing(capfd):
    fit(tiny.classifier(), tiny.encoded(), config=config(progress=False))
    assert capfd.readouterr() == ("", "")
    fit(tiny.classifier(), tiny.encoded(), config=config(progress=True, epochs=20))
    shown = capfd.readouterr().err
    assert "loss=" in shown and "examples/s" in shown and "/1200" in shown and "<00:" in shown


def test_history_survives_json():
    history = fit(tiny.classifier(), tiny.encoded(), tiny.encoded(), config())
    assert History(**json.loads(json.dumps(asdict(history)))) == history
    assert history.processes == 1
    assert history.examples_per_second > 0 and history.seconds > 0
    assert len(history.losses) == len(history.steps) == 16


MEMORY = """
import resource, sys
sys.path.insert(0, "tests")
import numpy as np, tiny, torch
from helpers.training import TrainingConfig, fit

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

torch.set_num_threads(1)
config = TrainingConfig(epochs=1, batch_size=8, max_steps=20, keep_best=False, progress=False)
small = tiny.encoded(1000)
fit(tiny.classifier(), small, tiny.encoded(80), config)
for copies in (100, 400):
    offsets = np.concatenate([[0], np.cumsum(np.tile(small.lengths, copies))])
    data = type(small)(np.tile(small.ids, copies), offsets, np.tile(small.labels, copies))
    size = sum(a.nbytes for a in (data.ids, data.offsets, data.labels, data.lengths))
    before = peak()
    fit(tiny.classifier(), data, None, config)
    print(size, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures peak memory as Linux reports it")
def test_memory_does_not_grow_with_the_number_of_examples():
    """Beyond the text itself, only its order: a few numbers an example."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        size, growth = map(int, line.split())
        assert growth < 0.5 * size, done.stdout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_gpu_gives_the_cpus_losses(precision):
    if precision == "bf16" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no bf16 units")
    data, runs = tiny.encoded(), []
    for settings in ({"device": "cpu"}, {"device": "cuda", "precision": precision}):
        model = tiny.classifier()
        runs.append(fit(model, data, data, config(**settings)).losses)
    assert runs[1] == pytest.approx(runs[0], abs=1e-4 if precision == "fp32" else 5e-2)
