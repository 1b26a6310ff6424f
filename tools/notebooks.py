"""For authors: run the lessons, and keep what they share in agreement.

python tools/notebooks.py run NOTEBOOK...   execute from a fresh kernel, store cleaned outputs
python tools/notebooks.py sync              write badges and set-up cells from pyproject.toml
python tools/notebooks.py check             say what differs; exit status 1 if anything does
"""

import argparse
import os
import sys
import tomllib
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
BADGE_START = "[![Open in Colab]"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
SETUP = """\
# Installs the course in Google Colab. Anywhere else it only checks that the course is there.
import importlib.metadata
import importlib.util
import subprocess
import sys

if "google.colab" in sys.modules:
    numpy_loaded = getattr(sys.modules.get("numpy"), "__version__", None)
    address = "git+{address}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", address]
    pip = subprocess.run(command, capture_output=True, text=True)
    if pip.returncode != 0:
        raise RuntimeError("pip could not install the course:\\n" + pip.stdout + pip.stderr)
    if numpy_loaded not in (None, importlib.metadata.version("numpy")):
        raise RuntimeError(
            "numpy was replaced while Python was using it. Choose Runtime > Restart session, "
            "then run this cell again."
        )
elif importlib.util.find_spec("helpers") is None:
    raise ImportError(
        "The course is not installed in this Python. In the course's folder run `make lab`, or "
        "`pip install -e .` with the Python of this kernel, then restart the kernel."
    )"""


class LessonFailed(Exception):
    """A lesson did not run cleanly; nothing was stored."""


def repository() -> str:
    """The repository's address, from the one place that has it."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["project"]["urls"]["Repository"].rstrip("/")


def setup_source(address: str | None = None) -> str:
    """The source of the set-up cell, the same in every lesson."""
    return SETUP.replace("{address}", address or repository())


def badge(notebook: str, address: str | None = None) -> str:
    """The badge line of a lesson; ``notebook`` is its file name."""
    path = (address or repository()).removeprefix("https://github.com/")
    target = f"https://colab.research.google.com/github/{path}/blob/main/notebooks/{notebook}"
    return f"{BADGE_START}(https://colab.research.google.com/assets/colab-badge.svg)]({target})"


def synced(notebook: NotebookNode, name: str, address: str | None = None) -> NotebookNode:
    """``notebook`` with the badge line and the set-up cell that it should have."""
    first = notebook.cells[0]
    lines = first.source.split("\n")
    lines = [line for line in lines if not line.startswith(BADGE_START)]
    rest = "\n".join(lines[1:]).strip("\n")
    first.source = f"{lines[0]}\n\n{badge(name, address)}\n\n{rest}".rstrip("\n")
    source = setup_source(address)
    tagged = [cell for cell in notebook.cells if "setup" in cell.metadata.get("tags", [])]
    if tagged:
        tagged[0].source = source
    else:
        cell = nbformat.v4.new_code_cell(source, id="setup", metadata={"tags": ["setup"]})
        notebook.cells.insert(1, cell)
    return notebook


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """``notebook`` without what differs from machine to machine; counts run from 1."""
    notebook.metadata = nbformat.from_dict(METADATA)
    count = 0
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type != "code":
            continue
        cell.outputs = [o for o in cell.outputs if WIDGET_VIEW not in o.get("data", {})]
        for output in cell.outputs:
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
        if cell.execution_count is not None:
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
    return notebook


def write(notebook: NotebookNode, path: Path) -> None:
    """Store in one step: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        nbformat.write(notebook, file)
    os.replace(temporary, path)


def run(path: Path, *, timeout: int = 600) -> None:
    """Execute one lesson from a fresh kernel in the quick profile and store its outputs.

    Raises:
        LessonFailed: a cell failed, or wrote to standard error; the file is left as it was.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(path, as_version=4)
    environment = os.environ | {
        "COURSE_PROFILE": "quick",
        "COURSE_PRECISION": "fp32",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.resolve().parent)}},
    )
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        raise LessonFailed(f"{path.name}: {error}") from None
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise LessonFailed(
                    f"{path.name}, cell {number} wrote to standard error, which a reader would "
                    f"trip over. Mend its cause:\n{cell.source}\n--- it wrote\n{output.text}"
                )
    write(cleaned(notebook), path)


def differences(path: Path) -> list[str]:
    """What ``sync`` or ``run`` would change in a lesson, as sentences."""
    notebook = nbformat.read(path, as_version=4)
    found = []
    before = nbformat.writes(notebook)
    if nbformat.writes(synced(nbformat.read(path, as_version=4), path.name)) != before:
        found.append("badge or set-up cell differs: run `python tools/notebooks.py sync`")
    if nbformat.writes(cleaned(nbformat.read(path, as_version=4))) != before:
        found.append("not as `python tools/notebooks.py run` stores it")
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    if counts != list(range(1, len(counts) + 1)):
        found.append("not executed from top to bottom: run `python tools/notebooks.py run`")
    return found


def lessons() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the lessons and keep them in agreement.")
    commands = parser.add_subparsers(dest="command", required=True)
    run_command = commands.add_parser("run", help="execute lessons and store their outputs")
    run_command.add_argument("notebooks", nargs="+", type=Path)
    commands.add_parser("sync", help="write badges and set-up cells")
    commands.add_parser("check", help="say what differs")
    options = parser.parse_args(arguments)
    if options.command == "run":
        for path in options.notebooks:
            try:
                run(path)
            except LessonFailed as failure:
                print(failure, file=sys.stderr)
                return 1
            print(f"{path.name}: stored")
    elif options.command == "sync":
        for path in lessons():
            before = path.read_text(encoding="utf-8")
            notebook = synced(nbformat.reads(before, as_version=4), path.name)
            if nbformat.writes(notebook).rstrip("\n") != before.rstrip("\n"):
                write(notebook, path)
                print(f"{path.name}: written")
    else:
        problems = [f"{path.name}: {what}" for path in lessons() for what in differences(path)]
        print("\n".join(problems) or "every lesson agrees")
        return 1 if problems else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
