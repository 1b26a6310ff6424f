"""The corpora: what cleaning did, that no split shares a text, that everything is reproducible."""

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from helpers import assets, corpora
from helpers.errors import AssetError, CourseError, InvalidValue

SIZES = {
    "news": {"train": 1300, "validation": 400, "test": 424},
    "messages": {"train": 3659, "validation": 500, "test": 1000},
    "reviews": {"train": 7041, "validation": 1000, "test": 2000},
}


def folded(rows):
    return [" ".join(text.lower().split()) for text in rows["text"]]


def serve(monkeypatch, folder: Path) -> None:
    monkeypatch.setattr(assets, "fetch", lambda name, **options: folder)


# -- the real data ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIZES)
def test_splits_have_their_sizes_and_share_no_text(name):
    data = corpora.load(name)
    assert {split: len(rows) for split, rows in data.items()} == SIZES[name]
    texts = [text for rows in data.values() for text in folded(rows)]
    assert len(set(texts)) == len(texts) == corpora.cleaning_report(name)["kept"]
    assert all(texts)


@pytest.mark.parametrize("name", SIZES)
def test_every_split_has_the_classes_in_the_same_shares(name):
    data = corpora.load(name)
    names = data["train"].features["label"].names
    assert names == corpora.label_names(name)
    counts = {split: Counter(rows["label"]) for split, rows in data.items()}
    total = sum(counts.values(), Counter())
    for split, count in counts.items():
        for label in range(len(names)):
            expected = total[label] * len(data[split]) / sum(total.values())
            assert abs(count[label] - expected) <= 1.5


@pytest.mark.parametrize("name", SIZES)
def test_the_classes_are_mixed_from_the_first_row_to_the_last(name):
    for rows in corpora.load(name, examples=1200).values():
        labels = np.array(rows["label"])
        for part in (labels[:200], labels[-200:]):
            for label in np.unique(labels):
                share = np.mean(labels == label)
                spread = np.sqrt(share * (1 - share) / 200)
                assert abs(np.mean(part == label) - share) < 4 * spread


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("news", {"rows_read": 2225, "not_utf8": 1, "duplicates_removed": 101, "kept": 2124}),
        (
            "messages",
            {
                "rows_read": 4837,
                "malformed": 8,
                "repaired": 737,
                "duplicates_removed": 415,
                "label_conflicts": 0,
                "kept": 5159,
            },
        ),
        (
            "reviews",
            {"rows_read": 10605, "neutral_removed": 562, "duplicates_removed": 2, "kept": 10041},
        ),
    ],
)
def test_cleaning_report(name, expected):
    report = corpora.cleaning_report(name)
    assert {key: report[key] for key in expected} == expected
    assert report["kept"] == (
        report["rows_read"]
        + report["repaired"]
        - report["neutral_removed"]
        - report["duplicates_removed"]
    )


def test_the_messages_are_as_many_as_their_publisher_counts():
    """The SMS Spam Collection (Almeida, Gomez Hidalgo & Yamakami 2011) has 5,574 messages."""
    report = corpora.cleaning_report("messages")
    assert report["rows_read"] + report["repaired"] == 5574


def test_no_message_holds_another():
    for rows in corpora.load("messages").values():
        assert not any("\n" in text or "ham\t" in text or "spam\t" in text for text in rows["text"])


def test_raw_rows_are_the_files_rows():
    news = corpora.raw("news")
    assert Counter(corpora.label_names("news")[row["label"]] for row in news) == {
        "business": 510,
        "entertainment": 386,
        "politics": 417,
        "sports": 511,
        "tech": 401,
    }
    messages = corpora.raw("messages")
    assert Counter(row["label"] for row in messages) == {0: 4199, 1: 638}
    assert max(len(row["text"].split()) for row in messages) > 5000
    news[0]["text"] = "changed"
    assert corpora.raw("news")[0]["text"] != "changed"


def test_the_wrongly_encoded_article_keeps_its_pound_sign():
    article = next(row["text"] for row in corpora.raw("news") if "fee for Mutu" in row["text"])
    assert "£15.8m" in article and "\ufffd" not in article


def test_ratings_agree_with_labels():
    for rows in corpora.load("reviews").values():
        for label, rating in zip(rows["label"], rows["rating"], strict=True):
            assert label == (rating > 0) and 0.5 < abs(rating) <= 4


def test_fewer_examples_are_a_part_of_more_and_the_test_rows_stay():
    few, many = corpora.load("reviews", examples=100), corpora.load("reviews", examples=1000)
    assert (len(few["train"]), len(many["train"])) == (100, 1000)
    assert set(few["train"]["text"]) <= set(many["train"]["text"])
    assert list(few["test"]["text"]) == list(many["test"]["text"])
    shares = Counter(corpora.load("messages", examples=100)["train"]["label"])
    assert shares == {0: 88, 1: 12}


def test_another_seed_gives_another_split_of_the_same_rows():
    one, again, two = (corpora.load("reviews", seed=seed) for seed in (1, 1, 2))
    assert one["test"].to_dict() == again["test"].to_dict()
    assert set(one["test"]["text"]) != set(two["test"]["text"])
    everything = [{t for rows in data.values() for t in rows["text"]} for data in (one, two)]
    assert everything[0] == everything[1]


def test_the_order_of_hashes_does_not_matter():
    code = (
        "from helpers import corpora\n"
        "rows = corpora.load('messages', examples=50)['train']\n"
        "import zlib; print(zlib.crc32('|'.join(rows['text']).encode()))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


# -- made-up data ----------------------------------------------------------------------------------


def test_labels_that_disagree_are_decided_and_counted(monkeypatch, tmp_path):
    lines = [",spam,text"]
    lines += [f"{i},{i % 2},message number {i}" for i in range(2000)]
    lines += ["2000,1,Win  a PRIZE", "2001,1,win a prize", "2002,0,win a prize "]
    lines += ["2003,0,tie", "2004,1,Tie"]
    (tmp_path / "sms-spam.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    serve(monkeypatch, tmp_path)
    report = corpora.cleaning_report("messages")
    assert (report["label_conflicts"], report["duplicates_removed"], report["kept"]) == (2, 4, 2001)
    data = corpora.load("messages")
    found = {
        text: label
        for rows in data.values()
        for text, label in zip(rows["text"], rows["label"], strict=True)
    }
    assert found["Win  a PRIZE"] == 1
    assert not {"tie", "Tie"} & set(found)


def test_neutral_reviews_go(monkeypatch, tmp_path):
    lines = ["id,sentiment,text"] + [f"{i},{i % 9 - 4},sentence {i}" for i in range(9 * 500)]
    lines.append('5000,0.5,"on the edge, and out"')
    with gzip.open(
        tmp_path / "movieReviewSnippets_GroundTruth.csv.gz", "wt", encoding="utf-8"
    ) as file:
        file.write("\n".join(lines))
    serve(monkeypatch, tmp_path)
    assert corpora.cleaning_report("reviews")["neutral_removed"] == 501


def write_parquet(path: Path, **columns) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def test_sst2_from_parquet(monkeypatch, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    sentences = [f"sentence {i}" for i in range(90)] + ["Shared  One ", "sentence 3"]
    write_parquet(
        data / "train-00000-of-00001.parquet",
        idx=list(range(92)),
        sentence=sentences,
        label=[i % 2 for i in range(90)] + [1, 1],
    )
    write_parquet(
        data / "validation-00000-of-00001.parquet",
        idx=[0, 1],
        sentence=["shared one", "held out "],
        label=[1, 0],
    )
    write_parquet(data / "test-00000-of-00001.parquet", idx=[0], sentence=["secret"], label=[-1])
    serve(monkeypatch, tmp_path)
    loaded = corpora.load("sst2", examples=10)
    assert loaded["train"].features["label"].names == ["negative", "positive"]
    assert sorted(loaded["test"]["text"]) == ["held out", "shared one"]
    assert Counter(loaded["train"]["label"]) == {0: 5, 1: 5}
    assert corpora.cleaning_report("sst2")["duplicates_removed"] == 2
    everything = corpora.load("sst2")
    assert len(everything["train"]) + len(everything["validation"]) == 90


def test_ag_news_from_several_parquet_files(monkeypatch, tmp_path):
    for part in range(2):
        write_parquet(
            tmp_path / f"train-0000{part}-of-00002.parquet",
            text=[f"story {part} {i}" for i in range(40)],
            label=[i % 4 for i in range(40)],
        )
    write_parquet(
        tmp_path / "test-00000-of-00001.parquet",
        text=[f"later story {i}" for i in range(8)],
        label=[i % 4 for i in range(8)],
    )
    serve(monkeypatch, tmp_path)
    loaded = corpora.load("ag-news")
    assert loaded["test"].features["label"].names == ["World", "Sports", "Business", "Sci/Tech"]
    assert {split: len(rows) for split, rows in loaded.items()} == {
        "train": 40,
        "validation": 40,
        "test": 8,
    }
    assert Counter(loaded["validation"]["label"]) == {0: 10, 1: 10, 2: 10, 3: 10}


# -- what goes wrong -------------------------------------------------------------------------------


def test_unknown_names_say_what_is_near():
    for call in (corpora.load, corpora.raw, corpora.cleaning_report, corpora.label_names):
        with pytest.raises(InvalidValue, match="Did you mean 'reviews'"):
            call("review")


@pytest.mark.parametrize("examples", [0, -1, 7042])
def test_examples_out_of_range(examples):
    with pytest.raises(InvalidValue, match=rf"examples is {examples}; reviews has 1 to 7,041"):
        corpora.load("reviews", examples=examples)


@pytest.mark.parametrize("name", [*SIZES, "sst2"])
def test_an_empty_folder(name, monkeypatch, tmp_path):
    serve(monkeypatch, tmp_path)
    with pytest.raises(AssetError, match="fetch again"):
        corpora.load(name)


@pytest.mark.parametrize("name", ["products", "tweets", "editorials"])
def test_the_other_rated_sentences_load_like_the_reviews(name):
    data, report = corpora.load(name), corpora.cleaning_report(name)
    assert [len(data[split]) for split in ("validation", "test")] == [300, 800]
    assert report["kept"] == sum(len(part) for part in data.values())
    for part in data.values():
        ratings = np.array(part["rating"])
        assert np.abs(ratings).min() > 0.5 and np.abs(ratings).max() <= 4
        assert ((ratings > 0) == np.array(part["label"])).all()


# -- your own table --------------------------------------------------------------------------------


def own_table(path: Path, separator: str = ",", names: tuple[str, str] = ("10", "2"), **columns):
    """Thirty texts of each of two classes, one of them copied with the other label."""
    text, label = columns.get("text", "text"), columns.get("label", "label")
    rows = [(f"Text{separator} number {n}", names[n % 2]) for n in range(60)]
    lines = [f"{text}{separator}{label}"]
    lines += [f'"{words}"{separator}{name}' for words, name in [*rows, (rows[0][0], names[1])]]
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_table_is_split_once_and_keeps_its_labels(separator, tmp_path):
    path = own_table(tmp_path / "own.csv", separator)
    data, names, report = corpora.load_csv(path)
    assert names == ["2", "10"], "numbers in the order of their values"
    assert report == {
        "empty": 0,
        "replaced": 0,
        "duplicates_removed": 2,
        "label_conflicts": 1,
        "kept": 59,
    }
    assert {split: len(rows) for split, rows in data.items()} == {
        "train": 43,
        "validation": 5,
        "test": 11,
    }
    texts = [text for rows in data.values() for text in folded(rows)]
    assert len(set(texts)) == len(texts) == 59
    for rows in data.values():
        for text, label in zip(rows["text"], rows["label"], strict=True):
            number = int(text.rsplit(" ", 1)[1])
            assert text == f"Text{separator} number {number}"
            assert names[label] == ["10", "2"][number % 2]
    again, _, _ = corpora.load_csv(path, examples=10)
    assert len(again["train"]) == 10 and again["test"].to_dict() == data["test"].to_dict()


def test_labels_that_are_words_are_sorted_as_words(tmp_path):
    assert corpora.load_csv(own_table(tmp_path / "own.csv", names=("b", "10")))[1] == ["10", "b"]


def test_json_lines_are_split_like_the_same_rows_in_a_csv_file(tmp_path):
    """Null, a missing key and an empty text are all rows without a text; true and 3 are labels."""
    rows = [(f"text number {n}", ("true", "3")[n % 2]) for n in range(60)]
    lines = [json.dumps({"text": t, "label": json.loads(label)}) for t, label in rows]
    lines += ['{"text": null, "label": 3}', '{"label": 3}', '{"text": "half\\ud83d", "label": 3}']
    (tmp_path / "own.jsonl").write_text("\n".join(lines), encoding="utf-8")
    table = ["text,label", *(f"{text},{label}" for text, label in rows), ",3", ",3", "half\ufffd,3"]
    (tmp_path / "own.csv").write_text("\n".join(table), encoding="utf-8")
    data, names, report = corpora.load_csv(tmp_path / "own.jsonl")
    expected, same_names, same_report = corpora.load_csv(tmp_path / "own.csv")
    assert names == same_names == ["3", "true"]
    assert report == same_report | {"replaced": 1} and report["empty"] == 2
    for split in expected:
        assert data[split].to_dict() == expected[split].to_dict()


@pytest.mark.parametrize("label", [["a", "b"], {"name": "a"}])
def test_a_label_that_is_not_one_value_is_refused(label, tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"text": "t", "label": label}), encoding="utf-8")
    with pytest.raises(CourseError, match=r"own\.jsonl, line 1: 'label' is .*a string or a number"):
        corpora.load_csv(path)
