"""The full profile against a stand-in Hub, through the real client in processes of its own."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from local_hub import serve
from transformers import BertConfig, BertModel

from helpers import assets
from helpers.errors import AssetError


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The full profile's repositories: a tiny BERT under the real vocabulary, a few rows each in
    exactly the schema of the published files."""
    top = tmp_path_factory.mktemp("hub")
    bert = top / "bert"
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(bert)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (bert / name).write_bytes((assets.fetch("encoder") / name).read_bytes())
    (bert / "pytorch_model.bin").write_bytes(b"never fetched")

    sst2 = top / "sst2" / "data"
    sst2.mkdir(parents=True)
    for split, labels in (("train", [0, 1] * 30), ("validation", [0, 1] * 10), ("test", [-1] * 4)):
        rows = {
            "idx": list(range(len(labels))),
            "sentence": [f"{split} phrase number {i} " for i in range(len(labels))],
            "label": labels,
        }
        parquet.write_table(pa.table(rows), sst2 / f"{split}-00000-of-00001.parquet")

    ag_news = top / "ag_news" / "data"
    ag_news.mkdir(parents=True)
    for split in ("train", "test"):
        rows = {"text": [f"{split} story {i}" for i in range(80)], "label": [0, 1, 2, 3] * 20}
        parquet.write_table(pa.table(rows), ag_news / f"{split}-00000-of-00001.parquet")
    squad = top / "squad" / "plain_text"
    squad.mkdir(parents=True)
    for split, articles in (("train", 20), ("validation", 4)):
        rows = [
            {
                "id": f"{split}{i}", "title": f"Title_{split}_{i}", "context": "Bees make honey.",
                "question": "What do bees make?",
                "answers": {"text": ["honey"], "answer_start": [10]},
            }
            for i in range(articles)
        ]  # fmt: skip
        answers = pa.struct(
            [("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))]
        )
        names = ("id", "title", "context", "question")
        schema = pa.schema([*((name, pa.string()) for name in names), ("answers", answers)])
        table = pa.Table.from_pylist(rows, schema=schema)
        parquet.write_table(table, squad / f"{split}-00000-of-00001.parquet")

    conll = top / "conll" / "data"
    conll.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        rows = {
            "id": ["0", "1"], "tokens": [["Ann", "Lee", "left", "Rome"], ["EU", "rejects"]],
            "pos_tags": [[22] * 4, [22] * 2], "chunk_tags": [[11] * 4, [11] * 2],
            "ner_tags": [[1, 2, 0, 5], [3, 0]],
        }  # fmt: skip
        parquet.write_table(pa.table(rows), conll / f"{split}-00000-of-00001-abc.parquet")
    repositories = {
        "datasets/rajpurkar/squad": squad.parent,
        "datasets/tomaarsen/conll2003": conll.parent,
        "models/google-bert/bert-base-uncased": bert,
        "datasets/stanfordnlp/sst2": sst2.parent,
        "datasets/fancyzhx/ag_news": ag_news.parent,
    }
    with serve(repositories) as standin:
        yield standin


def python(code: str, hub_url: str, home: Path) -> subprocess.CompletedProcess:
    """Run ``code`` with the stand-in as the Hub (the client reads its address at import)."""
    environment = {
        name: value for name, value in os.environ.items()
        if name not in ("COURSE_OFFLINE", "HF_HUB_OFFLINE")
    } | {"HF_ENDPOINT": hub_url, "COURSE_HOME": str(home), "HF_HOME": str(home / "hf"),
         "HF_HUB_DISABLE_XET": "1", "COURSE_PROFILE": "full"}  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=180
    )


def test_the_full_profiles_encoder_loads_through_the_same_code(hub, tmp_path):
    code = """
from helpers import models, runtime
name = models.default_model(runtime.detect().profile)
tokenizer = models.load_tokenizer(name)
model = models.load_classifier(name, labels=["no", "yes"])
print(name, model.config.hidden_size, tokenizer("hello")["input_ids"])
"""
    done = python(code, hub.url, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "bert-base 16 [101, 7592, 102]"
    kept = {path.name for path in (tmp_path / "assets" / "bert-base").iterdir()}
    assert "model.safetensors" in kept and "pytorch_model.bin" not in kept


@pytest.mark.parametrize(
    ("corpus", "classes"), [("sst2", ["negative", "positive"]), ("ag-news", None)]
)
def test_the_full_profiles_corpora_load_through_the_same_code(hub, tmp_path, corpus, classes):
    code = f"""
from helpers import corpora
data = corpora.load({corpus!r})
print(sorted(data), data["train"].features["label"].names, data["train"].column_names)
assert min(len(part) for part in data.values()) > 0
assert min(min(part["label"]) for part in data.values()) == 0
"""
    done = python(code, hub.url, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "['test', 'train', 'validation']" in done.stdout
    assert "'text', 'label'" in done.stdout
    assert classes is None or str(classes) in done.stdout


@pytest.mark.parametrize("task", ["sst2", "ag-news"])
def test_the_full_profiles_corpora_train_and_are_judged_from_the_command_line(hub, tmp_path, task):
    code = f"""
from helpers.cli.main import main
out = {str(tmp_path / "run")!r}
assert main(["train", {task!r}, "--max-steps", "2", "--out", out]) == 0
assert main(["evaluate", out, {task!r}]) == 0
"""
    done = python(code, hub.url, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "bert-base, " in done.stdout and "Saved in" in done.stdout
    rows = [line for line in done.stdout.split("\n") if line.startswith("fine-tuned")]
    assert len(rows) == 2 and rows[0] == rows[1], "evaluate repeats what train wrote"
    for baseline in ("TF-IDF + logistic regression", "majority class"):
        assert done.stdout.count(f"\n{baseline}  ") == 2


def test_squad_loads_as_the_courses_own_questions_do(hub, tmp_path):
    code = """
from helpers import models
from helpers.tasks import questions as qa
data = qa.load("squad")
print([len(data[split]) for split in ("train", "validation", "test")])
documents = [{example.document for example in part} for part in data.values()]
assert not documents[0] & documents[1]
tokenizer = models.load_tokenizer("bert-base")
model = models.load_question_answerer("bert-base")
windows = qa.encode(tokenizer, data["test"])
assert windows.has_answer.all()
print(qa.predict(model, windows, data["test"])[0].text in "Bees make honey.", data["test"][0].texts)
"""
    done = python(code, hub.url, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["[18, 2, 4]", "True ['honey']"]


def test_conll_loads_as_the_courses_own_entities_do(hub, tmp_path):
    code = """
from helpers import models
from helpers.tasks import entities as tok
data, labels = tok.load("conll")
print(sorted(data), labels, data["test"][0].tags, data["test"][0].text)
tokenizer = models.load_tokenizer("bert-base")
model = models.load_token_classifier("bert-base", labels=tok.tag_names(labels))
encoded = tok.encode(tokenizer, data["test"], labels)
print([len(tags) for tags in tok.predict_tags(model, encoded, data["test"])])
"""
    done = python(code, hub.url, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "('PER', 'ORG', 'LOC', 'MISC')" in done.stdout
    assert "('B-PER', 'I-PER', 'O', 'B-LOC') Ann Lee left Rome" in done.stdout
    assert done.stdout.split("\n")[1] == "[4, 2]"


def test_a_repository_that_is_not_there_is_named(tmp_path):
    with serve({}) as empty:
        done = python("from helpers import assets; assets.fetch('sst2')", empty.url, tmp_path)
    assert done.returncode == 1
    assert "AssetError: could not fetch sst2" in done.stderr
    assert "stanfordnlp/sst2" in done.stderr and empty.url in done.stderr


def test_a_repository_without_a_listed_file_is_not_kept(tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text("{}", encoding="utf-8")
    with serve({"models/google-bert/bert-base-uncased": bare}) as standin:
        done = python(
            "from helpers import assets; assets.fetch('bert-base')", standin.url, tmp_path
        )
    assert "has no model.safetensors" in done.stderr and "HF_ENDPOINT" in done.stderr
    assert not (tmp_path / "assets" / "bert-base").exists()


def test_a_download_that_breaks_off_is_an_asset_error(hub, tmp_path):
    hub.break_off = True
    try:
        done = python("from helpers import assets; assets.fetch('sst2')", hub.url, tmp_path)
    finally:
        hub.break_off = False
    assert "AssetError: could not fetch sst2" in done.stderr
    assert not (tmp_path / "assets" / "sst2").exists()


def test_a_disk_that_fills_while_the_hub_sends_is_named(hub, course, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    with pytest.raises(AssetError, match=r"could not store sst2.*disk is full"):
        assets.fetch("sst2")
    assert not course.left_over()


def test_a_hub_that_does_not_answer_is_named(tmp_path):
    done = python(
        "from helpers import assets; assets.fetch('sst2')", "http://127.0.0.1:9", tmp_path
    )
    assert "AssetError: could not fetch sst2" in done.stderr
    assert "http://127.0.0.1:9" in done.stderr


def test_the_hub_is_found_reachable(hub, tmp_path):
    done = python(
        "from helpers import runtime; print(runtime.hub_is_reachable())", hub.url, tmp_path
    )
    assert done.stdout.strip() == "True"
