"""The one reader of people's own tables, against what the csv and json modules read or wrote."""

import csv
import gzip
import json
import random
import tracemalloc

import pytest

from helpers.corpora.tables import ENDINGS, Table, csv_line, is_table, json_line, split_name
from helpers.errors import CourseError, InvalidValue


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def values(table):
    return [row.values for row in table]


# -- what is read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("kind", [".csv", ".tsv"])
def test_a_table_holds_what_the_csv_module_wrote(tmp_path, kind, separator, mark, compressed):
    draw = random.Random(1)
    alphabet = [*"ab,;|\t \"'é€😀\n\r", "\r\n"]
    rows = [
        ["".join(draw.choices(alphabet, k=draw.randrange(9))) for _ in range(3)] for _ in "x" * 50
    ]
    path = tmp_path / f"in{kind}{'.gz' * compressed}"
    opened = gzip.open if compressed else open
    with opened(path, "wt", encoding=mark, newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([["id", "text", "note"], *rows])
    table = Table(path, text="text")
    assert (table.separator, table.columns) == (separator, ["id", "text", "note"])
    assert [list(row.values()) for row in values(table)] == rows
    assert values(table) == values(table), "it can be read again"


@pytest.mark.parametrize("compressed", [False, True])
def test_json_lines_keep_every_value(tmp_path, compressed):
    rows = [{"text": "a", "n": [1, None]}, {"text": None, "é": {"x": 1.5}}, {"n": "\u2028\x85"}]
    content = b"\xef\xbb\xbf" + b"\r\n\n".join(json.dumps(row).encode() for row in rows)
    path = tmp_path / f"in.jsonl{'.gz' * compressed}"
    path.write_bytes(gzip.compress(content) if compressed else content)
    table = Table(path, text="text")
    assert values(table) == rows and table.columns == ["text", "n", "é"]
    assert [row.line for row in table] == [1, 3, 5]


@pytest.mark.parametrize(
    ("name", "stem", "kind"),
    [
        ("a.csv", "a", ".csv"),
        ("a.b.TSV.gz", "a.b", ".tsv"),
        ("a.JSONL", "a", ".jsonl"),
        ("a.json", "a", ""),
        ("news", "news", ""),
        ("a.gz", "a", ""),
        (".csv", ".csv", ""),
    ],
)
def test_the_kind_of_a_file_is_in_its_name(tmp_path, name, stem, kind):
    assert split_name(tmp_path / name) == (stem, kind)
    assert (
        is_table(tmp_path / name) == bool(kind) == name.lower().endswith(ENDINGS) * (stem != name)
    )


def test_white_space_around_the_names_is_not_part_of_them(tmp_path):
    table = Table(write(tmp_path / "a.csv", "text ,label\n a, b \n"), text="text", label="label")
    assert values(table) == [{"text": " a", "label": " b "}], "cells stay as they are"


@pytest.mark.parametrize("header", ["text, label", '"text", "label"', "text,  label"])
def test_a_space_after_each_separator_of_the_header_is_a_habit_of_the_file(tmp_path, header):
    path = write(tmp_path / "a.csv", f'{header}\nwords, pos\n"with, comma", "neg"\n')
    assert values(Table(path, text="text", label="label")) == [
        {"text": "words", "label": "pos"},
        {"text": "with, comma", "label": "neg"},
    ]


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"', "sep=;\r", "\ufeffsep=;"])
def test_the_first_line_that_excel_writes_decides_the_separator(tmp_path, first):
    table = Table(write(tmp_path / "a.csv", f"{first}\nte,xt;label\na,b;pos\n"), text="te,xt")
    assert [tuple(row) for row in table] == [(3, {"te,xt": "a,b", "label": "pos"}, 0)]
    path = write(tmp_path / "b.csv", "sep=#\ntext#label\na#b#c\n")
    with pytest.raises(CourseError, match=r"b\.csv, line 3: 3 cells, but the header names 2"):
        values(Table(path))


@pytest.mark.parametrize(
    ("header", "wanted", "separator"),
    [
        ("text;notes, if any, and more", {"text": "text"}, ";"),
        ("a|b;text;c", {"text": "text"}, ";"),
        ("text", {"text": "text"}, ","),
        ("te|xt", {}, "|"),
        ('"a;b","text"', {"text": "text"}, ","),
        ("a;b;c,d", {}, ";"),
    ],
)
def test_the_separator_is_the_one_that_finds_the_wanted_columns(
    tmp_path, header, wanted, separator
):
    assert Table(write(tmp_path / "a.csv", header + "\n"), **wanted).separator == separator


def test_one_column_is_separated_as_its_ending_says(tmp_path):
    path = write(tmp_path / "a.tsv", "text\nHello, you\n")
    assert values(Table(path)) == [{"text": "Hello, you"}] and Table(path).separator == "\t"


def test_a_column_without_a_name_is_called_by_its_number(tmp_path):
    """As in the tables of pandas, with their index, and of Excel, with empty columns."""
    table = Table(write(tmp_path / "a.csv", ",text,,\n0,a,,\n"), text="text")
    assert table.columns == ["column 1", "text", "column 3", "column 4"]
    assert values(table)[0]["column 1"] == "0"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system_and_blank_lines(tmp_path, end):
    lines = ["", "text,id", "a,1", "", '"b', 'c",2', "", ""]
    table = Table(write(tmp_path / "a.csv", end.join(lines)), text="text")
    assert [tuple(row) for row in table] == [
        (3, {"text": "a", "id": "1"}, 0),
        (5, {"text": f"b{end}c", "id": "2"}, 0),
    ]


@pytest.mark.parametrize("kind", [".csv", ".jsonl"])
def test_a_cell_of_more_than_131072_characters_is_read(tmp_path, kind):
    text = "word " * 30_000
    line = json.dumps({"text": text}) if kind == ".jsonl" else f'text\n"{text}"'
    assert values(Table(write(tmp_path / f"a{kind}", line), text="text")) == [{"text": text}]


@pytest.mark.parametrize("kind", [".csv", ".jsonl"])
def test_a_longer_file_takes_no_more_memory(tmp_path, kind):
    peaks = []
    for rows in (2_500, 12_500):
        path = tmp_path / f"{rows}{kind}"
        with path.open("w", encoding="utf-8") as file:
            file.write("text,id\n" if kind == ".csv" else "")
            for n in range(rows):
                text = f"this is a text number {n}"
                file.write(f'"{text},\n",{n}\n' if kind == ".csv" else f'{{"text": "{text}"}}\n')
        tracemalloc.start()
        assert sum(1 for _ in Table(path, text="text")) == rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0], peaks


def test_halves_of_characters_are_replaced_and_counted(tmp_path):
    r"""A backslash before ``ud83d`` that is itself escaped is text, not half of a character."""
    lines = [
        r'{"text": "\ud83d \ud83d\ude00 \ude00", "k\uD800": ["\udfff"]}',
        r'{"text": "\\ud83d"}',
        r'{"text": "\ud7ff\ue000"}',
    ]
    rows = list(Table(write(tmp_path / "a.jsonl", "\n".join(lines)), text="text"))
    assert rows[0].values == {"text": "\ufffd \N{GRINNING FACE} \ufffd", "k\ufffd": ["\ufffd"]}
    assert rows[1].values == {"text": r"\ud83d"} and rows[2].values == {"text": "\ud7ff\ue000"}
    assert [row.replaced for row in rows] == [4, 0, 0]


def test_cells_are_texts_or_nothing(tmp_path):
    content = '{"text": "a", "label": true}\n{"label": 2.5}\n{"text": null, "label": 7}\n'
    table = Table(write(tmp_path / "a.jsonl", content), text="text")
    assert [table.cell(row, "text") for row in table] == ["a", "", ""]
    labels = [table.cell(row, "label", (str, int, float)) for row in table]
    assert labels == ["true", "2.5", "7"]
    with pytest.raises(CourseError, match=r"a\.jsonl, line 1: 'label' is true; .*string or null"):
        table.cell(next(iter(table)), "label")


def test_lines_are_written_so_that_the_csv_and_json_modules_read_them(tmp_path):
    cells = ["a;b", 'say "x"', "one\rtwo", "é\n", "", None]
    path = write(tmp_path / "a.csv", csv_line(cells, ";") * 2)
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.reader(file, delimiter=";", strict=True))
    assert found == [[cell or "" for cell in cells]] * 2
    assert csv_line(["a", "b"]) == b"a,b\n"
    row = {"é": ["\u2028", None, 1.5]}
    assert json.loads(json_line(row)) == row and json_line(row).count(b"\n") == 1
    assert "é".encode() in json_line(row)


# -- rows that a stray pair of quotation marks has joined ------------------------------------------


def stray(rows, opened, closed, separator):
    """The lines of a table whose rows ``opened`` and ``closed`` (from 0) each have one mark."""
    lines = []
    for number, cells in enumerate(rows):
        text = cells[1]
        text = f'"{text}' if number == opened else f'{text}"' if number == closed else text
        lines.append(separator.join([*cells[:1], text, *cells[2:]]))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("kinds", ["id text label", "id text", "topic text"])
@pytest.mark.parametrize("separator", ["\t", ",", ";"])
@pytest.mark.parametrize(("opened", "closed"), [(4, 9), (0, 1), (0, 50), (57, 59)])
def test_rows_that_were_swallowed_stop_the_reading(tmp_path, kinds, separator, opened, closed):
    cells = {"id": "{n}", "topic": "sport{m}", "text": "a text, number {n}", "label": "c{m}"}
    if separator != "\t":
        cells["text"] = "a text of number {n}"
    names = kinds.split()
    rows = [[cells[name].format(n=n, m=n % 2) for name in names] for n in range(60)]
    content = separator.join(names) + "\n" + stray(rows, opened, closed, separator)
    table = Table(write(tmp_path / "a.tsv", content), text="text")
    with pytest.raises(CourseError, match=rf"one row of lines {opened + 2} to {closed + 2}\. Rem"):
        values(table)


def test_rows_are_joined_in_a_table_with_spaces_after_its_separators(tmp_path):
    content = 'text, label\na, pos\nb, neg\n"c, pos\nd", neg\n'
    with pytest.raises(CourseError, match="one row of lines 4 to 5"):
        values(Table(write(tmp_path / "a.csv", content)))


def test_every_place_is_named_up_to_five(tmp_path):
    text = "text\tlabel\n" + "".join(
        f'"a {n}\tpos\nb {n}"\tneg\nc\tpos\nd\tneg\n' for n in range(7)
    )
    with pytest.raises(CourseError, match=r"2 to 3; lines 6 to 7; .*lines 18 to 19 and 2 more\."):
        values(Table(write(tmp_path / "a.tsv", text)))


def test_a_text_of_two_lines_is_not_two_rows(tmp_path):
    """Prose has commas, ends lines with commas, and holds words that are labels elsewhere."""
    texts = [
        "Hello, you\nhow are you, friend",
        "It cost 1,000\nand more",
        "A list,\nof two,",
        "Well, no\nor, yes",
        "1,2\n3,4",
        "one,two\nthree,four\nfive,six",
    ]
    path = tmp_path / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "stars", "note"])
        writer.writerows([text, label, "5", ""] for text in texts for label in ("yes", "no"))
    assert [row["text"] for row in values(Table(path))] == [t for t in texts for _ in "ab"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "stars"])
        writer.writerows([text, stars] for text in texts for stars in range(1, 6))
    assert [row["text"] for row in values(Table(path))] == [t for t in texts for _ in range(5)]
    path.write_text('text,note\na,\n"Hello,\nworld",\n', encoding="utf-8")
    assert len(values(Table(path))) == 2, "nothing is in many cells"
    path.write_text('text\nyes\nno\n"so\nyes\nno\nyes\nno"\n', encoding="utf-8")
    assert len(values(Table(path))) == 3, "a table of one column"


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,id\nw,1\nw,2,3\n", "line 3: 3 cells, but the header names 2 columns"),
        ("a.csv", "text,id\nw\n", "line 2: 1 cell, but the header names 2 columns"),
        ("a.csv", 'text,id\n"a\nb",1,2\n', "lines 2 to 3: 3 cells"),
        ("a.csv", "text\nHello, you\n", "line 2: 2 cells, but the header names 1 column. Put a"),
        ("a.csv", "text\nw\nx\xe9".encode("latin-1"), "UTF-8: line 3 holds the byte 0xe9"),
        ("a.csv", "text\nw\n".encode("utf-16"), "UTF-8: line 1 holds the byte 0xff"),
        ("a.jsonl", b'{"text": "\xed\xa0\xbd"}', "UTF-8: line 1 holds the byte 0xed"),
        ("a.csv", 'text\nok\n"w\nx\n', r"line 3: a cell .* \(unexpected end of data, line 4\)"),
        ("a.csv", 'sep=,\ntext\n"w\nx\n', r"line 3: a cell .* \(unexpected end of data, line 4\)"),
        ("a.csv", 'text\n"w\n"x"\n', r"line 2: a cell .* expected after '\"', line 3\)"),
        ("a.csv", 'text\n"' + "w" * 10_000_001, r"line 2: a cell .* limit \(10000000\)"),
        ("a.csv.gz", "text\nw\n", "cannot be read: Not a gzipped file"),
        (
            "a.csv.gz",
            gzip.compress(b"text\n" + b"w\n" * 9, mtime=0)[:-9],
            "cannot be read: Compressed file",
        ),
        ("a.csv.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\3" + b"\xff" * 9, "cannot be read: Error -3"),
        ("a.jsonl", '{"text": "w"}\n{"text": \n', "line 2 is not JSON: Expecting value. Each"),
        ("a.jsonl", "[" * 100_000, "line 1 is not JSON: maximum recursion depth"),
        ("a.jsonl", '{"text": "w"}\n[1]\n', "line 2 is a list; each line"),
        ("a.csv", "text,a,text\n", "names a column twice: text, a, text"),
        ("a.csv", "body;id\n", r"no column 'text'; it has body, id\. .*--text-column"),
        ("a.csv", "\n\n", "has no first line with the names"),
        ("a.csv", '"text\n', "has no first line with the names"),
        ("a.jsonl", '{"body": "w"}\n', "no column 'text'; it has body. Name"),
        ("a.jsonl", "\n", r"a\.jsonl has no rows"),
        ("a.txt", "text\nw\n", r"a\.txt isn't a table; its name must end in \.csv, \.tsv, \.jsonl"),
    ],
)
def test_what_cannot_be_read_is_explained(tmp_path, name, content, message):
    with pytest.raises(CourseError, match=message) as caught:
        values(Table(write(tmp_path / name, content), text="text"))
    assert name in str(caught.value)


def test_a_missing_file_and_a_folder_are_not_tables(tmp_path):
    (tmp_path / "a.csv").mkdir()
    for name in ("a.csv", "b.csv"):
        with pytest.raises(InvalidValue, match="there is no file"):
            Table(tmp_path / name)


def test_a_file_that_may_not_be_read_is_explained(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "a.csv.gz", gzip.compress(b"text\n"))
    monkeypatch.setattr(gzip, "open", refuse)
    with pytest.raises(CourseError, match=r"a\.csv\.gz cannot be read: .*Permission denied"):
        Table(path)
