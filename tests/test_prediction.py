"""Labels for whole files: as the model gives them, in constant memory, and across a kill."""

import csv
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
import tiny
import tiny_run
import torch

from helpers import models
from helpers.errors import CourseError, InvalidValue
from helpers.shipping.batch_prediction import predict_file


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run.write(tmp_path_factory.mktemp("prediction") / "run")


def write_csv(path, texts):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "text", "note"))
        writer.writerows((i, text, f'a "note", {i}\nof two lines') for i, text in enumerate(texts))
    return path


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def reference(run, texts):
    """Labels and probabilities one text at a time, by transformers and torch alone."""
    model, tokenizer = models.load_trained(run / "model")
    for text in texts:
        batch = tokenizer([text], truncation=True, max_length=24, return_tensors="pt")
        with torch.inference_mode():
            probabilities = model(batch["input_ids"]).logits.softmax(-1)[0]
        yield tiny_run.LABELS[int(probabilities.argmax())], float(probabilities.max())


def test_every_row_of_a_csv_gets_the_models_label_in_its_order(run, tmp_path):
    texts = tiny.texts(70, longest=40)
    texts[3] = "  "
    source = write_csv(tmp_path / "in.csv", texts)
    summary = predict_file(run, source, tmp_path / "out.csv", chunk_rows=16)
    before, after = read_csv(source), read_csv(tmp_path / "out.csv")
    assert [{k: row[k] for k in ("id", "text", "note")} for row in after] == before
    assert (after[3]["predicted_label"], after[3]["probability"]) == ("", "")
    full = [row for row in after if row["text"].strip()]
    for row, (label, probability) in zip(
        full, reference(run, (r["text"] for r in full)), strict=True
    ):
        assert row["predicted_label"] == label
        assert float(row["probability"]) == pytest.approx(probability, abs=2e-6)
    assert (summary.rows, summary.empty, sum(summary.labels.values())) == (70, 1, 69)
    assert summary.truncated == sum(len(text.split()) > 22 for text in texts)
    mean = sum(float(row["probability"]) for row in full) / 69
    assert summary.mean_confidence == pytest.approx(mean)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_jsonl_keeps_every_value(run, tmp_path):
    rows = [
        {"text": "w5 w9", "n": 3, "deep": {"a": [1, None]}},
        {"text": "", "é": "ü"},
        {"n": 1.5, "text": "w50"},
    ]
    source = tmp_path / "in.jsonl"
    source.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    predict_file(run, source, tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert [{k: v for k, v in row.items() if k in rows[i]} for i, row in enumerate(found)] == rows
    assert found[1]["predicted_label"] is None and found[1]["probability"] is None
    assert found[0]["predicted_label"] in tiny_run.LABELS and 0.5 <= found[0]["probability"] <= 1


def test_a_byte_order_mark_is_no_part_of_a_name(run, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("text\nw5 w6\n", encoding="utf-8-sig")
    assert predict_file(run, source, tmp_path / "out.csv").rows == 1


def test_killed_in_the_middle_and_resumed_it_writes_the_same_bytes(run, tmp_path):
    texts = tiny.texts(2000, longest=6)
    source = write_csv(tmp_path / "in.csv", texts)
    whole = tmp_path / "whole.csv"
    predict_file(run, source, whole, chunk_rows=64)
    out = tmp_path / "out.csv"
    part, progress = tmp_path / "out.csv.part", tmp_path / "out.csv.progress.json"
    command = [sys.executable, "-m", "helpers", "predict", str(run), str(source), "--out",
               str(out), "--chunk-rows", "64"]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    for line in process.stdout:
        if line.startswith(b"640 rows"):
            break
    process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()
    assert not out.exists() and part.exists()
    done = json.loads(progress.read_text(encoding="utf-8"))
    assert 640 <= done["summary"]["rows"] < 2000, "the run was to be stopped in its middle"
    with part.open("ab") as file:
        file.write(b"half a li")  # what a chunk that was not finished leaves
    with pytest.raises(CourseError, match="--resume"):
        predict_file(run, source, out, chunk_rows=64)
    summary = predict_file(run, source, out, chunk_rows=64, resume=True)
    assert out.read_bytes() == whole.read_bytes()
    assert summary.resumed_from == done["summary"]["rows"]
    assert summary.rows == 2000 and sum(summary.labels.values()) == 2000
    assert not part.exists() and not progress.exists()


def test_ten_times_the_rows_need_no_more_memory(run, tmp_path):
    """Resident memory after each chunk, in MiB; the larger file alone is 20 MB."""
    process, peaks = psutil.Process(), {}
    texts = tiny.texts(500, longest=4)
    for times in (1, 10):
        source, seen = tmp_path / f"{times}.csv", []
        with source.open("w", encoding="utf-8") as file:
            file.write("text,filler\n")
            for _ in range(times):
                file.writelines(f"{text},{'x' * 4000}\n" for text in texts)
        predict_file(
            run,
            source,
            tmp_path / f"{times}-out.csv",
            chunk_rows=128,
            say=lambda line, seen=seen: seen.append(process.memory_info().rss / 2**20),
        )
        peaks[times] = max(seen)
    assert peaks[10] - peaks[1] < 6, peaks


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("in.csv", "body,id\nw5,1\n", {}, r"no column 'text'; it has body, id.*--text-column"),
        ("in.csv", "text,probability\nw5,1\n", {}, "already has a column 'probability'"),
        ("in.tsv", "text\nw5\n", {}, r"ends in \.tsv"),
        ("in.csv", "text\nw5\n", {"chunk_rows": 0}, "chunk_rows is 0"),
        ("in.jsonl", '{"words": "w5"}\n', {}, "no column 'text'; it has words"),
    ],
)
def test_a_wrong_file_is_explained_before_anything_starts(
    run, tmp_path, name, content, options, message
):
    (tmp_path / name).write_text(content, encoding="utf-8")
    out = tmp_path / f"out{(tmp_path / name).suffix}"
    with pytest.raises(InvalidValue, match=message):
        predict_file(run, tmp_path / name, out, **options)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.csv", b"text,id\nw5,1\nw6,2,3\n", "3 values for 2 columns ends in line 3"),
        ("in.csv", b"text\nw5\n\xff\xfe\n", "not UTF-8"),
        ("in.csv", b"text,text\nw5,w6\n", "all different"),
        ("in.csv", b"", "names of its columns"),
        ("in.csv", b'text\n"w5\n', "cannot be read"),
        ("in.jsonl", b'{"text": "w5"}\n{"text": \n', "after line 1"),
        ("in.jsonl", b'{"text": "w5"}\n[1]\n', "line 2 holds a list"),
        ("in.jsonl", b'{"text": "w5"}\n{"text": 7}\n', "row 2 has 7"),
        ("in.jsonl", b"\n", "holds no rows"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(run, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CourseError, match=message):
        predict_file(run, tmp_path / name, tmp_path / f"out{(tmp_path / name).suffix}")


def test_nothing_is_overwritten_and_no_two_runs_are_mixed(run, tmp_path):
    source = write_csv(tmp_path / "in.csv", tiny.texts(20))
    out = tmp_path / "out.csv"
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(CourseError, match="nothing is overwritten"):
        predict_file(run, source, out, resume=True)
    assert out.read_text(encoding="utf-8") == "mine"
    out.unlink()
    part, progress = tmp_path / "out.csv.part", tmp_path / "out.csv.progress.json"
    part.write_bytes(b"id,text")
    state = {"run": {"source": "another"}, "written": 7, "summary": {"rows": 1}}
    progress.write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(CourseError, match="would mix two runs"):
        predict_file(run, source, out, resume=True)
    assert part.read_bytes() == b"id,text"


def test_a_model_of_another_kind_is_refused(tmp_path):
    run = tiny_run.write(tmp_path / "run", labels=["value"])
    source = write_csv(tmp_path / "in.csv", ["w5"])
    with pytest.raises(InvalidValue, match="come from a classifier"):
        predict_file(run, source, tmp_path / "out.csv")


def test_an_interrupted_part_without_progress_begins_anew(run, tmp_path):
    source = write_csv(tmp_path / "in.csv", tiny.texts(20))
    (tmp_path / "out.csv.part").write_bytes(b"id,te")
    summary = predict_file(run, source, tmp_path / "out.csv", resume=True)
    assert summary.resumed_from == 0 and len(read_csv(tmp_path / "out.csv")) == 20
