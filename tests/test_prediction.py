"""Labels for whole files: as the model gives them, in constant memory, and across a kill."""

import csv
import gzip
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
from helpers.cli.main import main
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
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers", "predict", run, source, "--out", out, "--chunk-rows=64"],
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
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
        ("in.txt", "text\nw5\n", {}, r"isn't a table; its name must end in \.csv"),
        ("in.csv", "text\nw5\n", {"chunk_rows": 0}, "chunk_rows is 0"),
        ("in.jsonl", '{"words": "w5"}\n', {}, "no column 'text'; it has words"),
        ("in.jsonl", "\n", {}, "in.jsonl has no rows"),
        ("in.csv", "", {}, "no first line with the names of its columns"),
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
        ("in.csv", "a comma, without marks,7\n", "line 2008: 3 cells, but the header names 2"),
        ("in.csv", '"never closed,7\n', "line 2008: a cell of the row that begins here"),
        ("in.jsonl", '{"text": 7}\n', "line 2007: 'text' is 7; it must be a string or null"),
        ("in.jsonl", '{"text": "w5", "probability": 1}\n', "already has a column 'probability'"),
        ("in.jsonl", '["w5"]\n', "line 2007 is a list"),
    ],
)
def test_a_bad_last_row_is_found_before_the_first_is_labelled(
    run, tmp_path, name, content, message
):
    texts, source = [f"w5 number {n}" for n in range(2006)], tmp_path / name
    rows = {
        "in.csv": ["text,id\n", *(f"{text},{n}\n" for n, text in enumerate(texts))],
        "in.jsonl": [f'{{"text": "{text}"}}\n' for text in texts],
    }
    source.write_text("".join(rows[name]) + content, encoding="utf-8")
    lines = []
    with pytest.raises(CourseError, match=message):
        predict_file(run, source, tmp_path / f"out{source.suffix}", say=lines.append)
    assert lines == [] and [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz"])
def test_the_same_rows_get_the_same_labels_in_every_kind_of_file(run, tmp_path, ending):
    """The labels come out in the kind of the source, with its separator, not compressed."""
    texts = ["w5 w6", "w7; w8", "  ", "w9 w10"]
    separator = "\t" if ".tsv" in ending else ";"
    if ".jsonl" in ending:
        content = "".join(json.dumps({"text": text, "id": "x"}) + "\n" for text in texts)
    else:
        content = f" text {separator} id \n" + "".join(f'"{t}"{separator}x\n' for t in texts)
        content = content.replace(f" {separator} ", separator)
    opened = gzip.open if ending.endswith(".gz") else open
    source = tmp_path / f"in{ending}"
    with opened(source, "wt", encoding="utf-8", newline="") as file:
        file.write(content)
    out = tmp_path / f"out{ending.removesuffix('.gz')}"
    predict_file(run, source, out)
    with out.open(encoding="utf-8", newline="") as file:
        if ".jsonl" in ending:
            found = [json.loads(line) for line in file]
        else:
            found = list(csv.DictReader(file, delimiter=separator))
    assert [(row["text"], row["id"]) for row in found] == [(text, "x") for text in texts]
    full = [row for row in found if row["text"].strip()]
    expected = reference(run, [row["text"] for row in full])
    assert [row["predicted_label"] for row in full] == [label for label, _ in expected]
    assert not found[2]["predicted_label"]


def test_the_column_that_the_run_was_trained_on_is_the_default(tmp_path):
    run = tiny_run.write(tmp_path / "run", text_column="body")
    source, outs = tmp_path / "in.csv", [tmp_path / "a.csv", tmp_path / "b.csv"]
    source.write_text("text,body\nw5,w6 w7\nw8,\n", encoding="utf-8")
    assert predict_file(run, source, outs[0]).empty == 1
    assert predict_file(run, source, outs[1], text_column="text").empty == 0
    rows = read_csv(outs[0])
    assert rows[0]["predicted_label"] == next(reference(run, ["w6 w7"]))[0]


def test_what_is_no_text_in_json_lines_gets_no_label(run, tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": null}\n{"text": "w5"}\n{"id": 3}\n', encoding="utf-8")
    assert predict_file(run, source, out).empty == 2
    labels = [json.loads(line)["predicted_label"] for line in out.read_text().splitlines()]
    assert labels[0] is None and labels[1] in tiny_run.LABELS and labels[2] is None


def test_half_a_character_is_replaced_and_counted(run, tmp_path, capsys):
    source, out = tmp_path / "in.jsonl", tmp_path / "in.predicted.jsonl"
    lines = [r'{"text": "w5 \ud83d", "\udc00": ["\udc00"]}', r'{"text": "w6 \ud83d\ude00"}']
    source.write_text("\n".join(lines), encoding="utf-8")
    assert main(["predict", str(run), str(source)]) == 0
    assert "3 halves of characters" in capsys.readouterr().out
    first, second = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert first["text"] == "w5 \ufffd" and first["\ufffd"] == ["\ufffd"]
    assert second["text"] == "w6 \N{GRINNING FACE}"


def test_a_carriage_return_in_a_cell_survives(run, tmp_path):
    source = tmp_path / "in.csv"
    source.write_bytes(b'text,note\nw5,"one\rtwo"\nw6,"three\r\nfour"\n')
    predict_file(run, source, tmp_path / "out.csv")
    assert [row["note"] for row in read_csv(tmp_path / "out.csv")] == ["one\rtwo", "three\r\nfour"]


def test_the_labels_go_into_a_file_of_the_same_kind(run, tmp_path):
    source = write_csv(tmp_path / "in.csv", ["w5"])
    for name in ("out.tsv", "out.jsonl", "out.csv.gz"):
        with pytest.raises(InvalidValue, match=r"go into a \.csv file"):
            predict_file(run, source, tmp_path / name)


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
