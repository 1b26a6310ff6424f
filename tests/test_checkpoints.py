"""Killed at any moment and resumed, a run ends as if nothing had happened."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import one_thread  # noqa: F401 (used by every test)

from helpers.errors import CourseError, InvalidValue
from helpers.training import checkpoints, fit
from helpers.training.config import TrainingConfig

ROOT = Path(__file__).parents[1]


def start(out: Path, **options) -> subprocess.Popen:
    """tests/train_script.py in a process of its own, with dropout, which must resume too."""
    options = {"dropout": 0.1, "checkpoint_every": 2, "patience": 20} | options
    return subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "tests" / "train_script.py"),
            str(out),
            *(f"{name}={json.dumps(value)}" for name, value in options.items()),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def wait(process: subprocess.Popen) -> tuple[int, str]:
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_killed_and_resumed_ends_with_the_same_weights(tmp_path):
    """kill -9 once between steps and three times while a checkpoint is written: when older ones
    are not yet removed, when it is not whole yet, and when it has no name yet."""
    plain, killed, folder = tmp_path / "plain", tmp_path / "killed", tmp_path / "checkpoints"
    plain.mkdir()
    killed.mkdir()
    whole = start(plain, checkpoint_folder=str(tmp_path / "other"))

    process = start(killed, checkpoint_folder=str(folder), pause=0.1)
    deadline = time.monotonic() + 120
    while not (folder / "step-00000006.pt").exists():
        assert process.poll() is None and time.monotonic() < deadline, wait(process)
        time.sleep(0.01)
    process.kill()
    assert wait(process)[0] == -signal.SIGKILL
    for call, files in (("unlink", 3), ("fsync", 4), ("replace", 4)):
        process = start(killed, checkpoint_folder=str(folder), resume=True, die_before=call)
        assert wait(process)[0] == -signal.SIGKILL
        assert len(list(folder.iterdir())) == files
    code, errors = wait(start(killed, checkpoint_folder=str(folder), resume=True))
    assert code == 0, errors

    code, errors = wait(whole)
    assert code == 0, errors
    expected = load_file(plain / "classifier-0.safetensors")
    resumed = load_file(killed / "classifier-0.safetensors")
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    histories = [
        json.loads((out / "classifier-0.json").read_text(encoding="utf-8"))
        for out in (plain, killed)
    ]
    for key in ("steps", "evaluations", "best_step"):
        assert histories[0][key] == histories[1][key]
    assert len(histories[1]["events"]) == 2, "one resumption led to a checkpoint, and the last"
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000022.pt", "step-00000024.pt"]


def settings(folder: Path, **changes) -> TrainingConfig:
    plain = {
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "checkpoint_every": 3,
        "checkpoint_folder": folder,
        "progress": False,
    }
    return TrainingConfig(**plain | changes)


class Interrupted(Exception):
    pass


def interrupt_at(last: int):
    def callback(step, model, history):
        if step == last:
            raise Interrupted

    return callback


@pytest.fixture
def interrupted(tmp_path) -> Path:
    """A folder with the checkpoints of steps 6 and 9 of 16."""
    data = tiny.encoded()
    with pytest.raises(Interrupted):
        fit(tiny.classifier(), data, data, settings(tmp_path), callbacks=[interrupt_at(11)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000006.pt", "step-00000009.pt"]
    return tmp_path


def resumed_weights(folder: Path):
    model, data = tiny.classifier(), tiny.encoded()
    history = fit(model, data, data, settings(folder, resume=True))
    return model.state_dict(), history


def flip(path: Path, share: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: flip(path, 0),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(pickle.dumps({"something": "else"})),
    ],
    ids=["flipped", "flipped-first", "truncated", "empty", "no-archive"],
)
def test_a_damaged_checkpoint_is_passed_over_and_said(interrupted, damage, capsys):
    reference, data = tiny.classifier(), tiny.encoded()
    fit(reference, data, data, settings(interrupted / "other"))
    damage(interrupted / "step-00000009.pt")
    weights, history = resumed_weights(interrupted)
    assert all(torch.equal(weights[k], v) for k, v in reference.state_dict().items())
    assert "checkpoint step-00000009.pt is damaged (" in history.events[0]
    assert history.events[1] == "resumed after step 6."
    assert "step-00000009.pt is damaged" in capsys.readouterr().err


def test_wherever_a_bit_flips_nothing_wrong_is_loaded(tmp_path):
    """Either the damage is noticed, or it was in bytes that hold nothing, such as padding."""
    path, saved = tmp_path / "step-00000001.pt", {"a": torch.arange(40.0), "b": [1, {"c": "d"}]}
    torch.save(saved, path)
    good, noticed = path.read_bytes(), 0
    for place in range(0, len(good), 7):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
        if checkpoints.find_newest(tmp_path)[0] is None:
            noticed += 1
        else:
            found = checkpoints.load(path)
            assert torch.equal(found["a"], saved["a"]) and found["b"] == saved["b"]
    assert noticed > len(good) / 7 / 2


def test_all_damaged_starts_anew(interrupted):
    for path in interrupted.iterdir():
        flip(path)
    _, history = resumed_weights(interrupted)
    assert len(history.losses) == 16
    assert len(history.events) == 3 and "no checkpoint" in history.events[2]


def test_the_best_weights_survive_a_resumption(tmp_path):
    """Best after the first evaluation, then a learning rate far too high: the kept weights were
    those of before the interruption."""
    data = tiny.encoded()

    def run(folder, callbacks=(), **changes):
        model = tiny.classifier()
        high = {"learning_rate": 0.5, "schedule": "constant", "warmup_fraction": 0.25}
        history = fit(
            model,
            data,
            data,
            settings(folder, evaluate_every=1, **high, **changes),
            callbacks=callbacks,
        )
        return model.state_dict(), history

    weights, history = run(tmp_path / "whole")
    assert history.best_step < 9
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", [interrupt_at(11)])
    found, again = run(tmp_path / "cut", resume=True)
    assert again.best_step == history.best_step
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_run_that_was_over_stays_over(tmp_path):
    def run(**changes):
        return fit(
            tiny.classifier(),
            tiny.encoded(),
            config=settings(tmp_path, **changes),
            callbacks=[lambda step, model, history: step == 6],
        )

    assert len(run().losses) == len(run(resume=True).losses) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 2e-3}, "learning_rate was 0.001, is 0.002"),
        ({"seed": 1}, "seed was 42, is 1"),
        ({"epochs": 3}, "epochs was 2, is 3"),
        ({"precision": "bf16"}, "precision was 'fp32', is 'bf16'"),
    ],
)
def test_other_settings_are_refused(interrupted, changes, message):
    data = tiny.encoded()
    with pytest.raises(InvalidValue) as error:
        fit(tiny.classifier(), data, data, settings(interrupted, resume=True, **changes))
    assert message in str(error.value) and "another run" in str(error.value)


def test_other_data_or_another_model_are_refused(interrupted):
    data, resume = tiny.encoded(), settings(interrupted, resume=True)
    with pytest.raises(InvalidValue, match=r"run: training data was .* Resume"):
        fit(tiny.classifier(), tiny.encoded(seed=5), data, resume)
    with pytest.raises(InvalidValue, match=r"validation data was .*, is 'none'"):
        fit(tiny.classifier(), data, None, resume)
    with pytest.raises(InvalidValue, match="model was"):
        fit(tiny.classifier(labels=4), data, data, resume)


def test_a_new_run_never_touches_the_checkpoints_of_another(interrupted):
    with pytest.raises(InvalidValue, match=r"already holds checkpoints \(the newest is step-"):
        fit(tiny.classifier(), tiny.encoded(), config=settings(interrupted))
    assert checkpoints.find_newest(interrupted) == (interrupted / "step-00000009.pt", [])


def test_a_full_disk_is_explained_and_nothing_saved_is_lost(interrupted, monkeypatch):
    def no_room(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", no_room)
    with pytest.raises(CourseError, match=r"step 12 could not be written.*No space left"):
        resumed_weights(interrupted)
    assert sorted(p.name for p in interrupted.iterdir()) == ["step-00000006.pt", "step-00000009.pt"]
    assert checkpoints.find_newest(interrupted) == (interrupted / "step-00000009.pt", [])


def test_callbacks_that_draw_draw_the_same_after_a_resumption(tmp_path):
    import random

    import numpy as np

    def run(last=None, **changes):
        def callback(step, model, history):
            drawn[step] = (random.random(), np.random.rand(), torch.rand(1).item())
            if step == last:
                raise Interrupted

        drawn = {}
        data = tiny.encoded()
        fit(tiny.classifier(), data, data, settings(**changes), callbacks=[callback])
        return drawn

    whole = run(folder=tmp_path / "whole")
    assert len(set(whole.values())) == len(whole) == 16
    with pytest.raises(Interrupted):
        run(last=11, folder=tmp_path / "cut")
    resumed = run(folder=tmp_path / "cut", resume=True)
    assert resumed == {step: whole[step] for step in range(10, 17)}


def test_tied_weights_and_the_best_are_saved_and_restored(tmp_path):
    """A language model whose output layer is its embedding, broken off and resumed."""
    data, models = tiny.blocks(), [tiny.causal_model() for _ in range(3)]
    changes = {"checkpoint_every": 2, "evaluate_every": 2}
    fit(models[0], data, data, settings(tmp_path / "whole", **changes))
    with pytest.raises(Interrupted):
        fit(models[1], data, data, settings(tmp_path, **changes), callbacks=[interrupt_at(5)])
    fit(models[2], data, data, settings(tmp_path, resume=True, **changes))
    for name, weight in models[0].state_dict().items():
        assert torch.equal(models[2].state_dict()[name], weight)
    assert models[2].lm_head.weight is models[2].transformer.wte.weight


class Malicious:
    def __reduce__(self):
        return print, ("code of somebody else's",)


def test_a_checkpoint_runs_no_code_of_others(interrupted, capsys):
    path = interrupted / "step-00000009.pt"
    torch.save({"fingerprint": Malicious()}, path)
    _, history = resumed_weights(interrupted)
    assert "step-00000009.pt is damaged (Weights only load failed" in history.events[0]
    assert history.events[1] == "resumed after step 6."
    assert "somebody" not in capsys.readouterr().out
