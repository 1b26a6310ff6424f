"""tools/notebooks.py, and the set-up cell in a simulated Colab."""

import importlib.metadata
import importlib.util
import subprocess
import sys
import types

import lesson_rules
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

tool = lesson_rules.tool
ADDRESS = "https://github.com/someone/somewhere"


def cell_source():
    return tool.setup_source(ADDRESS)


@pytest.fixture
def colab(monkeypatch):
    """Pretend to be Colab; the commands that the set-up cell would run are collected."""
    commands = []
    outcome = types.SimpleNamespace(returncode=0, stdout="", stderr="")

    def run(command, **options):
        commands.append(command)
        return outcome

    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(subprocess, "run", run)
    return types.SimpleNamespace(commands=commands, outcome=outcome)


def test_in_colab_the_course_is_installed_from_the_repository(colab, capsys):
    exec(cell_source(), {})
    (command,) = colab.commands
    assert command == [sys.executable, "-m", "pip", "install", "--quiet", f"git+{ADDRESS}"]
    assert capsys.readouterr().out == ""


def test_in_colab_a_replaced_numpy_stops_with_what_to_do(colab, monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", types.SimpleNamespace(__version__="1.0"))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "999.0")
    with pytest.raises(RuntimeError, match="Runtime > Restart session"):
        exec(cell_source(), {})


def test_in_colab_a_numpy_not_yet_loaded_may_be_replaced(colab, monkeypatch):
    monkeypatch.delitem(sys.modules, "numpy", raising=False)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "999.0")
    exec(cell_source(), {})


def test_in_colab_a_failing_pip_is_shown(colab):
    colab.outcome.returncode = 1
    colab.outcome.stderr = "no such repository"
    with pytest.raises(RuntimeError, match="no such repository"):
        exec(cell_source(), {})


def test_elsewhere_nothing_is_installed(monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("ran a command"))
    exec(cell_source(), {})
    assert capsys.readouterr().out == ""


def test_elsewhere_a_missing_course_is_explained(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="make lab"):
        exec(cell_source(), {})


def test_the_address_stands_in_pyproject_alone():
    assert f"git+{tool.repository()}" in tool.setup_source()
    assert "{address}" not in tool.setup_source()


def small():
    return new_notebook(
        cells=[new_markdown_cell("# 09 Title\n\nWhy?\n\n## Time"), new_code_cell("print(1)")]
    )


def test_sync_writes_badge_and_setup_once():
    notebook = tool.synced(small(), "09_title.ipynb", ADDRESS)
    title, _, badge, _, why, *_ = notebook.cells[0].source.split("\n")
    assert (title, why) == ("# 09 Title", "Why?")
    assert badge.endswith("/github/someone/somewhere/blob/main/notebooks/09_title.ipynb)")
    assert notebook.cells[1].source == cell_source()
    assert notebook.cells[1].metadata.tags == ["setup"]
    once = nbformat.writes(notebook)
    assert nbformat.writes(tool.synced(notebook, "09_title.ipynb", ADDRESS)) == once


def test_sync_follows_another_address():
    notebook = tool.synced(small(), "09_title.ipynb", "https://github.com/a/old")
    tool.synced(notebook, "09_title.ipynb", ADDRESS)
    assert "a/old" not in nbformat.writes(notebook)
    assert len(notebook.cells) == 3


def test_cleaned_drops_what_a_machine_adds():
    notebook = small()
    notebook.metadata.widgets = {"x": 1}
    notebook.metadata.language_info = {"name": "python", "version": "3.11.7"}
    code = notebook.cells[1]
    code.metadata = nbformat.from_dict({"tags": ["a"], "execution": {"started": "now"}})
    code.execution_count = 7
    code.outputs = [
        new_output("display_data", {tool.WIDGET_VIEW: {"model_id": "x"}, "text/plain": "x"}),
        new_output("execute_result", {"text/plain": "1"}, execution_count=7),
    ]
    notebook = tool.cleaned(notebook)
    assert notebook.metadata == tool.METADATA
    assert code.metadata == {"tags": ["a"]}
    assert [output.output_type for output in code.outputs] == ["execute_result"]
    assert code.execution_count == code.outputs[0].execution_count == 1


def stored(tmp_path, *sources):
    path = tmp_path / "09_title.ipynb"
    cells = [new_markdown_cell("# 09 Title"), *map(new_code_cell, sources)]
    tool.write(new_notebook(cells=cells), path)
    return path


def test_run_stores_outputs(tmp_path, capsys):
    path = stored(tmp_path, "import os", "print(os.environ['COURSE_PROFILE'])")
    assert tool.main(["run", str(path)]) == 0
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2]
    assert notebook.cells[2].outputs[0].text == "quick\n"
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("source", "told"),
    [("1 / 0", "ZeroDivisionError"), ("import sys; sys.stderr.write('ouch')", "ouch")],
)
def test_run_leaves_the_file_alone_when_a_cell_fails(source, told, tmp_path, capsys):
    path = stored(tmp_path, source)
    before = path.read_bytes()
    assert tool.main(["run", str(path)]) == 1
    assert told in capsys.readouterr().err
    assert path.read_bytes() == before


def test_sync_and_check_work_on_every_lesson(tmp_path, monkeypatch, capsys):
    path = stored(tmp_path, "print(1)")
    monkeypatch.setattr(tool, "lessons", lambda: [path])
    assert tool.main(["check"]) == 1
    told = capsys.readouterr().out
    assert "badge or set-up cell differs" in told and "not executed" in told
    assert tool.main(["sync"]) == 0
    assert tool.main(["run", str(path)]) == 0
    assert tool.main(["check"]) == 0
    once = path.read_bytes()
    assert tool.main(["sync"]) == 0
    assert path.read_bytes() == once
