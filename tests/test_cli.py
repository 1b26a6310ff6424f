"""The command line as a person meets it: real models, real data, real processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline

from helpers import corpora, models, tasks
from helpers.cli.main import main
from helpers.cli.table import score_table

ROOT = Path(__file__).parents[1]
# Few texts and few steps of the real thing: what is tested is the way through, not the score.
SHORT = ["--examples", "64", "--batch-size", "16", "--max-steps", "4"]


def run(*arguments: str, launcher: tuple[str, ...] = (sys.executable,), **environment: str):
    """One command in a process of its own; returns the finished process with its texts."""
    return subprocess.run(
        [*launcher, "-m", "helpers", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
    )


def read_metrics(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def short_run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("short") / "run"
    done = run("train", "messages", *SHORT, "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nwes"], "Did you mean 'news'?"),
        (["train", "news", "--model", "encodr"], "encoder"),
        (["train", "news", "--examples", "0"], "0"),
        (["train", "news", "--examples", "1000000"], "1000000"),
        (["train", "news", "--epochs", "0"], "epochs"),
        (["train", "news", "--learning-rate", "-1"], "learning_rate"),
        (["train", "news", "--learning-rate", "nan"], "learning_rate"),
        (["train", "news", "--batch-size", "0"], "batch_size"),
        (["train", "news", "--seed", "-1"], "seed"),
        (["train", "news", "--max-steps", "0"], "max_steps"),
        (["train", "news", "--checkpoint-every", "0"], "checkpoint_every"),
        (["train", "news", "--lora", "0"], "rank is 0"),
        (["train", "news", "--lora", "9999"], "rank is 9999"),
        (["train", "news", "--lora-alpha", "8"], "give its rank"),
        (["train", "questions.json", "--lora", "4"], "there is no file questions.json"),
        (["train", "news", "--lora", "4", "--lora-alpha", "0"], "alpha is 0"),
        (["train", "entitys"], "Did you mean 'entities'?"),
        (["train", "entities", "--examples", "0"], "examples is 0"),
        (["train", "questions", "--lora", "4"], "an adapter is for text classifiers: news"),
        (["train", "relations", "--epochs", "0"], "epochs"),
        (["train", "missing.csv"], "there is no file missing.csv"),
        (["train", "missing.json"], "there is no file missing.json"),
        (["train", "news", "--text-column", "body"], "are for a table of your own"),
        (["fetch", "newz"], "Did you mean 'news'?"),
        (["evaluate", "nowhere", "nwes"], "Did you mean 'news'?"),
    ],
)
def test_a_wrong_call_is_explained_and_exits_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err
    assert not list(tmp_path.iterdir()), "a wrong call leaves nothing behind"


def test_an_unknown_option_exits_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "news", "--epohcs", "3"])
    assert stop.value.code == 2
    assert "--epohcs" in capsys.readouterr().err


def test_out_must_not_be_a_file(tmp_path, capsys):
    (tmp_path / "run").write_text("mine", encoding="utf-8")
    assert main(["train", "messages", *SHORT, "--out", str(tmp_path / "run")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "run").read_text(encoding="utf-8") == "mine"


def test_an_empty_cache_offline_says_what_to_do(tmp_path):
    done = run("fetch", "news", COURSE_HOME=str(tmp_path), COURSE_OFFLINE="1")
    assert done.returncode == 1
    assert "news" in done.stderr and "COURSE_OFFLINE" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_without_a_model_cannot_be_evaluated(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path), "news"]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_train_writes_a_model_and_its_metrics(short_run):
    metrics = read_metrics(short_run)
    assert {
        "task", "model", "seed", "device", "precision", "examples", "test", "baseline",
        "train_seconds", "examples_per_second", "processes",
    } <= metrics.keys()  # fmt: skip
    assert (metrics["task"], metrics["examples"], metrics["processes"]) == ("messages", 64, 1)
    assert len(metrics["losses"]) == 4 and metrics["lora"] is None
    for scores in (metrics["test"], *metrics["baseline"].values()):
        for name in ("accuracy", "macro_f1"):
            low, high = scores[f"{name}_interval"]
            assert 0 <= low <= scores[name] <= high <= 1
    assert set(metrics["baseline"]) == {"majority", "tfidf_logreg"}
    counts = np.bincount(corpora.load("messages", seed=42)["test"]["label"])
    assert metrics["baseline"]["majority"]["accuracy"] == pytest.approx(counts.max() / counts.sum())


def test_the_saved_model_loads_with_pipeline(short_run):
    classify = pipeline("text-classification", model=str(short_run / "model"))
    assert classify("Are we still on for lunch?")[0]["label"] in {"ham", "spam"}
    assert classify("win " * 2000, truncation=True)[0]["score"] > 0


def test_evaluate_gives_the_numbers_that_train_wrote(short_run, capsys):
    again, metrics = tasks.evaluate(short_run, tasks.get("messages")), read_metrics(short_run)
    assert again["test"] == metrics["test"]
    assert again["baseline"] == metrics["baseline"]
    assert main(["evaluate", str(short_run), "messages"]) == 0
    shown = capsys.readouterr().out
    assert f"{metrics['test']['accuracy']:.3f}" in shown and "majority class" in shown


def test_a_model_of_other_classes_is_refused(short_run, capsys):
    assert main(["evaluate", str(short_run), "news"]) == 2
    assert "ham, spam" in capsys.readouterr().err


def test_a_finished_run_is_not_overwritten(short_run, capsys):
    before = {path: path.stat().st_mtime_ns for path in short_run.rglob("*")}
    assert main(["train", "messages", *SHORT, "--out", str(short_run)]) == 1
    assert "--resume" in capsys.readouterr().err
    assert main(["train", "messages", *SHORT, "--out", str(short_run), "--resume"]) == 0
    assert {path: path.stat().st_mtime_ns for path in short_run.rglob("*")} == before


EXTRACT = ["--examples", "8", "--batch-size", "4", "--max-steps", "3"]


@pytest.mark.parametrize(
    ("task", "score", "baselines"),
    [
        ("entities", "f1", {"gazetteer"}),
        ("relations", "macro_f1", {"types", "tfidf_logreg"}),
        ("questions", "exact_match", {"sliding_window", "silent"}),
    ],
)
def test_extraction_trains_saves_and_judges_again(task, score, baselines, tmp_path, capsys):
    out = tmp_path / task
    assert main(["train", task, *EXTRACT, "--out", str(out)]) == 0
    shown, metrics = capsys.readouterr().out, read_metrics(out)
    assert metrics["examples"] == 8 and len(metrics["losses"]) == 3
    assert set(metrics["baseline"]) == baselines
    for scores in (metrics["test"], *metrics["baseline"].values()):
        low, high = scores[f"{score}_interval"]
        assert 0 <= low <= scores[score] <= high <= 1
        assert f"{scores[score]:.3f} [{low:.3f}, {high:.3f}]" in shown
    assert main(["evaluate", str(out), task]) == 0
    assert f"{metrics['test'][score]:.3f}" in capsys.readouterr().out
    other = "entities" if task != "entities" else "questions"
    assert main(["evaluate", str(out), other]) == 2
    assert "Name the task that the model was trained for" in capsys.readouterr().err


def test_extraction_killed_after_a_checkpoint_ends_with_the_same_weights(tmp_path):
    options = ["train", "entities", *EXTRACT, "--checkpoint-every", "1"]
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert main([*options, "--out", str(whole)]) == 0
    shutil.copytree(whole / "checkpoints", again / "checkpoints")
    (again / "checkpoints" / "step-00000003.pt").unlink(missing_ok=True)
    assert main([*options, "--out", str(again), "--resume"]) == 0
    expected = load_file(whole / "model" / "model.safetensors")
    resumed = load_file(again / "model" / "model.safetensors")
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def own_csv(folder: Path, rows: int = 60, **columns: str) -> Path:
    """Letters about trains and about bread; every tenth row is a copy of the first."""
    names = {"text": "text", "label": "label"} | columns
    lines = [f"{names['text']},{names['label']},other"]
    for n in range(rows):
        kind, n = ("travel", 0) if n % 10 == 0 else (("travel", n), ("food", n))[n % 2]
        what = "train leaves station" if kind == "travel" else "bread bakes, in the oven"
        lines.append(f'"The {what} number {n}",{kind},x')
    lines += ['"",food,x', '"no label",,x']
    path = folder / "letters.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def test_a_csv_of_ones_own_is_cleaned_split_trained_and_judged_again(tmp_path, capsys):
    path, out = own_csv(tmp_path, text="body", label="kind"), tmp_path / "run"
    columns = ["--text-column", "body", "--label-column", "kind"]
    assert main(["train", str(path), *columns, "--epochs", "2", "--out", str(out)]) == 0
    shown, metrics = capsys.readouterr().out, read_metrics(out)
    assert "55 different texts of 2 classes" in shown and "2 rows without" in shown
    assert "5 copies" in shown and metrics["examples"] == 55 - 11 - 5
    assert metrics["test"]["accuracy"] > metrics["baseline"]["majority"]["accuracy"]
    _, tokenizer = models.load_trained(out / "model")
    assert tokenizer.model_max_length == 128
    assert main(["evaluate", str(out), str(path)]) == 0
    assert f"{metrics['test']['accuracy']:.3f}" in capsys.readouterr().out
    classify = pipeline("text-classification", model=str(out / "model"))
    assert classify("The bread bakes, in the oven")[0]["label"] == "food"


def test_an_adapter_can_be_trained_on_a_csv_of_ones_own(tmp_path):
    path, out = own_csv(tmp_path), tmp_path / "run"
    short = ["--epochs", "1", "--max-steps", "2", "--out", str(out)]
    assert main(["train", str(path), "--lora", "2", *short]) == 0
    metrics = read_metrics(out)
    assert metrics["lora"]["rank"] == 2 and metrics["lora"]["trainable_parameters"] < 10**5
    assert main(["evaluate", str(out), str(path)]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,x\nb,x\n", "the different labels are ['x']. At least two classes"),
        ("text,label\n", "0 of its 0 rows have both"),
        ("text,label\na,x\nb,y\n", "fewer than 10 different texts of 2 of the 2 classes"),
        (b"text,label\na,x\n\xe9,x\n", "cannot be read as UTF-8: line 3 holds the byte 0xe9"),
        ("text,label\na,x\n".encode("utf-16"), "cannot be read as UTF-8: line 1"),
        ("text,label\na,x\nwell, then,y\n", "line 3: 3 cells, but the header names 2"),
        ('text,label\n"a,x\nb,y\n', "line 2: a cell of the row that begins here does not end"),
        ('text,label\n"a,x\n"b",y\n', "',' expected after '\"', line 3). A quotation mark"),
        ("text,label\n" + "".join(f"t{i},{i / 4}\n" for i in range(40)), "of 40 of the 40 classes"),
    ],
)
def test_a_csv_that_cannot_be_used_is_explained(content, message, tmp_path, capsys):
    refused(1, content, message, tmp_path, capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("body,label\na,x\nb,y\n", "no column 'text'; it has body, label"),
        ("text;kind\na;x\nb;y\n", "no column 'label'; it has text, kind"),
        ("text,label,text\na,x,b\n", "names a column twice"),
        ("", "no first line with the names of its columns"),
    ],
)
def test_a_csv_whose_columns_are_named_wrongly_is_explained(content, message, tmp_path, capsys):
    refused(2, content, message, tmp_path, capsys)


def refused(status: int, content: str | bytes, message: str, tmp_path: Path, capsys) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["train", str(path), "--out", str(tmp_path / "run")]) == status
    said = capsys.readouterr().err
    assert message in said and "own.csv" in said and "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_columns_that_are_one_and_a_file_of_another_kind_are_refused(tmp_path, capsys):
    path = own_csv(tmp_path)
    assert main(["train", str(path), "--text-column", "label"]) == 2
    assert "cannot both be in column 'label'" in capsys.readouterr().err
    assert main(["train", str(path.rename(tmp_path / "letters.txt"))]) == 2
    assert "ends in .csv, .tsv, .jsonl, " in capsys.readouterr().err


def test_a_changed_csv_is_not_judged_on_texts_that_were_learnt(tmp_path, capsys):
    path, out = own_csv(tmp_path), tmp_path / "run"
    assert main(["train", str(path), "--max-steps", "1", "--out", str(out)]) == 0
    assert main(["evaluate", str(out), str(tmp_path / "other.csv")]) == 2
    assert "there is no file" in capsys.readouterr().err
    with path.open("a", encoding="utf-8") as file:
        file.write('"One more train",travel,x\n')
    assert main(["evaluate", str(out), str(path)]) == 1
    assert "letters.csv is not the file" in capsys.readouterr().err


def own_squad(folder: Path, answer: str = "Rome") -> Path:
    text = "Ann lives in Rome with two cats. She moved there in 1999."
    data = [
        {"title": f"Letter {n}", "paragraphs": [{"context": text, "qas": [
            {"id": str(n), "question": "Where does Ann live?",
             "answers": [{"text": answer, "answer_start": 13}]}]}]}
        for n in range(10)
    ]  # fmt: skip
    path = folder / "letters.json"
    path.write_text(json.dumps({"data": data}), encoding="utf-8")
    return path


def test_a_squad_file_of_ones_own_trains_and_is_judged_again(tmp_path, capsys):
    path, out = own_squad(tmp_path), tmp_path / "run"
    options = ["--batch-size", "4", "--max-steps", "3", "--out", str(out)]
    assert main(["train", str(path), *options]) == 0
    assert "7 train, 1 validation, 2 test questions" in capsys.readouterr().out
    metrics = read_metrics(out)
    assert (metrics["file"], metrics["examples"]) == ("letters.json", 7)
    assert main(["evaluate", str(out), str(path)]) == 0
    assert f"{metrics['test']['f1']:.3f}" in capsys.readouterr().out


def test_a_squad_file_with_a_wrong_answer_is_explained(tmp_path, capsys):
    path = own_squad(tmp_path, answer="Paris")
    assert main(["train", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "question '0': its answer 'Paris' is not at 13" in capsys.readouterr().err


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    """SIGKILL after the second checkpoint, then --resume: the same weights, bit for bit."""
    options = ["train", "messages", *SHORT, "--max-steps", "6", "--checkpoint-every", "1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run(*options, "--out", str(whole))
    assert done.returncode == 0, done.stderr

    process = subprocess.Popen(
        [sys.executable, "-m", "helpers", *options, "--out", str(killed)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not list((killed / "checkpoints").glob("step-*2.pt")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.wait()
    assert not (killed / "metrics.json").exists()

    refused = run(*options, "--out", str(killed))
    assert refused.returncode == 1 and "--resume" in refused.stderr
    done = run(*options, "--out", str(killed), "--resume")
    assert done.returncode == 0, done.stderr
    expected = load_file(whole / "model" / "model.safetensors")
    resumed = load_file(killed / "model" / "model.safetensors")
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert read_metrics(whole)["losses"] == read_metrics(killed)["losses"]


def test_train_with_an_adapter_saves_a_plain_model_and_can_be_resumed(tmp_path):
    out = tmp_path / "adapter"
    options = ["train", "messages", *SHORT, "--lora", "4", "--lora-alpha", "6", "--out", str(out)]
    assert main([*options, "--checkpoint-every", "2"]) == 0
    metrics = read_metrics(out)
    adapter = metrics["lora"]
    assert (adapter["rank"], adapter["alpha"], adapter["targets"]) == (4, 6, ["query", "value"])

    saved, _ = models.load_trained(out / "model")
    start = models.load_classifier(labels=["ham", "spam"], seed=42).state_dict()
    changed = {n for n, weight in saved.state_dict().items() if not torch.equal(weight, start[n])}
    expected = {n for n in start if n.endswith(("query.weight", "value.weight"))}
    assert changed == expected | {"classifier.weight", "classifier.bias"}
    by_hand = sum(4 * sum(start[name].shape) for name in expected)
    by_hand += start["classifier.weight"].numel() + start["classifier.bias"].numel()
    assert adapter["trainable_parameters"] == by_hand

    (out / "metrics.json").unlink()
    (out / "checkpoints" / "step-00000004.pt").unlink()
    assert main([*options, "--checkpoint-every", "2", "--resume"]) == 0
    again = models.load_trained(out / "model")[0].state_dict()
    assert all(torch.equal(weight, again[n]) for n, weight in saved.state_dict().items())
    again = read_metrics(out)
    assert (again["losses"], again["test"]) == (metrics["losses"], metrics["test"])


def test_two_processes_give_the_loss_curve_of_one(short_run, tmp_path):
    out = tmp_path / "two"
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2")
    done = run(
        "train", "messages", *SHORT, "--out", str(out), launcher=torchrun, OMP_NUM_THREADS="1"
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes took part" in done.stdout
    two, one = read_metrics(out), read_metrics(short_run)
    assert two["processes"] == 2
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-4)


@pytest.mark.parametrize(
    ("counted", "said"), [(0.80, None), (0.91, "does better"), (0.97, "does clearly better")]
)
def test_a_baseline_that_wins_is_explained(counted, said):
    def scores(value):
        interval = [value - 0.02, value + 0.02]
        both = {"accuracy": value, "macro_f1": value}
        intervals = {f"{name}_interval": interval for name in both}
        return both | intervals | {"per_class": {"a": {"f1": value, "f1_interval": interval}}}

    baseline = {"tfidf_logreg": scores(counted), "majority": scores(0.5)}
    table = score_table({"test": scores(0.90), "baseline": baseline})
    assert ("Counting words" in table) == (said is not None)
    assert said is None or said in table
