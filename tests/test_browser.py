"""The lessons in JupyterLab in a real browser, as a learner meets them."""

import importlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium or Chrome on the PATH to drive JupyterLab with"
)


@pytest.fixture
def lab(tmp_path, request):
    """JupyterLab over a copy of the lesson ``request.param``; yields the address to open and the
    copy's path."""
    copy = tmp_path / "lessons" / request.param.name
    copy.parent.mkdir()
    shutil.copy(request.param, copy)
    # Every cell stays in the page, also those out of sight.
    settings = tmp_path / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text(
        '{"windowingMode": "none", "autoStartDefaultKernel": true}'
    )
    token, log = secrets.token_hex(16), tmp_path / "lab.log"
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
        "--port=0", f"--ServerApp.root_dir={copy.parent}", f"--IdentityProvider.token={token}",
        f"--LabApp.user_settings_dir={tmp_path / 'settings'}",
    ]  # fmt: skip
    environment = os.environ | {
        "COURSE_PROFILE": "quick", "COURSE_PRECISION": "fp32",
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
    }  # fmt: skip
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        yield f"{_address(server, log)}/lab/tree/{copy.name}?token={token}", copy
    finally:
        server.terminate()
        server.wait(timeout=30)


def _address(server: subprocess.Popen, log: Path) -> str:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            try:
                urllib.request.urlopen(f"{found[0]}/api", timeout=5)
                return found[0]
            except OSError:
                pass
        time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()}")


def _code_cells(path: Path) -> list:
    return [
        cell
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code" and cell.source.strip()
    ]


def _printed(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def _save_until(page, path: Path, done, seconds: float) -> list:
    """Save with the keyboard until ``done(code cells on disk)``; returns those cells."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        page.keyboard.press("Control+s")
        page.wait_for_timeout(1000)
        try:
            cells = _code_cells(path)
        except (json.JSONDecodeError, nbformat.reader.NotJSONError):
            continue
        if done(cells):
            return cells
    counts = [cell.execution_count for cell in _code_cells(path)]
    raise AssertionError(f"not done after {seconds:.0f} s; execution counts: {counts}")


@pytest.mark.parametrize(
    "lab",
    [
        pytest.param(path, id=path.stem, marks=[] if path.name[:2] == "00" else pytest.mark.slow)
        for path in LESSONS
    ],
    indirect=True,
)
def test_a_lesson_runs_and_an_exercise_is_failed_then_solved(lab):
    from playwright.sync_api import sync_playwright

    address, path = lab
    question = importlib.import_module(f"helpers.exercises.lesson{path.name[:2]}").q1
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking",
                  "--disable-component-update", "--disable-sync", "--no-first-run"],
        )  # fmt: skip
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.goto(address)
        # "Run All Cells" does nothing before the kernel is there, and the notebook's own
        # indicator says idle even without one: the status bar does not.
        page.get_by_text(re.compile(r"\| Idle$")).wait_for(timeout=90_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        cells = _save_until(
            page, path, lambda cells: all(cell.execution_count for cell in cells), 400
        )
        errors = [o for cell in cells for o in cell.outputs if o.output_type == "error"]
        assert not errors, errors[0]["evalue"]

        number = next(n for n, cell in enumerate(cells) if "q1.check(" in cell.source)
        assert "Not attempted yet" in _printed(cells[number])
        for answer, expected in (
            ("answer = 'no idea'", question.result("no idea").message),
            (question.solution_source, question.passed),
        ):
            before = cells[number].execution_count
            _retype(page, number, f"{answer}\nq1.check(answer)")
            cells = _save_until(
                page,
                path,
                lambda now, old=before: now[number].execution_count not in (old, None),
                60,
            )
            # Long messages are wrapped.
            assert " ".join(expected.split()) in " ".join(_printed(cells[number]).split())
        if path.name.startswith("15"):
            _explore(page)
            _write(page)
            _chat(page)
        browser.close()


def _wait_until(page, holds, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        page.wait_for_timeout(200)


def _explore(page) -> None:
    """Another prompt draws another figure; none is explained."""
    panel = page.locator(".widget-interact")
    image, prompt = panel.locator("img"), panel.locator("input[type=text]")
    before = image.get_attribute("src")
    prompt.fill("One, two, three,")
    prompt.press("Enter")
    _wait_until(page, lambda: image.count() == 1 and image.get_attribute("src") != before)
    prompt.fill("")
    prompt.press("Enter")
    panel.get_by_text("empty prompt").wait_for(timeout=60_000)


def _write(page) -> None:
    """Three offers; one of them is appended; pressing again brings others."""
    ask = page.get_by_role("button", name="Go on", exact=True)
    panel = page.locator(".widget-vbox").filter(has=ask)
    box, offers = panel.locator("textarea"), panel.locator(".widget-vbox button")
    before = box.input_value()
    ask.click()
    _wait_until(page, lambda: offers.count() == 3)
    first = offers.all_inner_texts()
    # The page is told that the button works again after it is given the offers.
    _wait_until(page, ask.is_enabled)
    ask.click()
    _wait_until(page, lambda: offers.count() == 3 and offers.all_inner_texts() != first)
    _wait_until(page, ask.is_enabled)
    offers.first.click()
    _wait_until(page, lambda: len(box.input_value()) > len(before))
    assert box.input_value().startswith(before) and offers.count() == 0


def _chat(page) -> None:
    """An answer to a message sent by Enter and to one by the button; all forgotten; no message."""
    box = page.get_by_placeholder("your message")
    send = page.get_by_role("button", name="Send", exact=True)
    panel = page.locator(".widget-vbox").filter(has=send)
    answers = panel.locator("p").filter(has_text=re.compile(r"^Model: *\S"))
    box.fill("My name is Ada.")
    box.press("Enter")
    _wait_until(page, lambda: answers.count() == 1)
    _wait_until(page, send.is_enabled)
    box.fill("What is a film?")
    send.click()
    _wait_until(page, lambda: answers.count() == 2)
    _wait_until(page, send.is_enabled)
    page.get_by_role("button", name="Forget all", exact=True).click()
    _wait_until(page, lambda: panel.locator("p").count() == 0)
    send.click()
    panel.get_by_text("Write at least one word").wait_for(timeout=60_000)


def _retype(page, number: int, source: str) -> None:
    """Replace the text of the numbered code cell and run it, with the keyboard."""
    page.locator(".jp-CodeCell").nth(number).locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(source)
    page.keyboard.press("Control+Enter")
