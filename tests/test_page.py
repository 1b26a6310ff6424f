"""The page in a real browser, as a person meets it: without a network, and nothing leaves."""

import json
import re
import shutil
from urllib.parse import urlparse

import pytest
import tiny_run
import torch

from helpers import models
from helpers.errors import CourseError, InvalidValue
from helpers.shipping import demo
from helpers.shipping.demo import FeedbackLog

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
TEXT = "w5 w17 w30 w8"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run.write(tmp_path_factory.mktemp("page") / "my-model")


def reference(run, text):
    """Label and probability, computed by transformers and torch alone."""
    model, tokenizer = models.load_trained(run / "model")
    ids = tokenizer([text], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        probabilities = model(ids).logits.softmax(-1)[0]
    number = int(probabilities.argmax())
    return tiny_run.LABELS[number], float(probabilities[number])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on the PATH to open a page in")
def test_a_person_types_a_text_reads_the_answer_and_corrects_it(run, tmp_path):
    from playwright.sync_api import expect, sync_playwright

    label, probability = reference(run, TEXT)
    other = next(name for name in tiny_run.LABELS if name != label)
    asked, errors, log = [], [], tmp_path / "log.jsonl"
    with demo.serve(run, log=log) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking",
                  "--disable-component-update", "--disable-sync", "--no-first-run"],
        )  # fmt: skip
        view = browser.new_page()
        view.on("request", lambda request: asked.append(request.url))
        view.on("pageerror", lambda error: errors.append(str(error)))
        view.goto(address)
        view.locator("#classify").click()
        expect(view.locator("#remark")).to_contain_text(demo.ASK)
        view.locator("#text textarea").fill(TEXT)
        view.locator("#classify").click()
        shown = view.locator("#label")
        expect(shown).to_contain_text(f"{probability:.0%}")
        expect(shown.locator("h2")).to_have_text(re.compile(rf"\s*{label}\s*"))
        view.locator("#send").click()
        expect(view.locator("#thanks")).to_contain_text("Choose the right label first.")
        view.locator("#right").get_by_text(other, exact=True).click()
        view.locator("#send").click()
        expect(view.locator("#thanks")).to_contain_text(f"noted as {other}")
        browser.close()
    hosts = {urlparse(url).hostname for url in asked if url.startswith(("http", "ws"))}
    assert hosts == {"127.0.0.1"}, hosts
    assert not errors
    (kept,) = FeedbackLog(log, list(tiny_run.LABELS)).predictions()
    assert (kept["text"], kept["label"], kept["corrected"]) == (TEXT, label, other)
    assert kept["probability"] == pytest.approx(probability, abs=1e-5)


def test_the_function_behind_the_page_gives_the_models_probabilities(run):
    classifier = demo.Classifier(run)
    found, remark = classifier(TEXT)
    label, probability = reference(run, TEXT)
    assert found[label] == pytest.approx(probability, abs=1e-6)
    assert sum(found.values()) == pytest.approx(1) and remark == ""
    assert classifier("  \n") == ({}, demo.ASK)
    assert classifier("w7 " * 40)[1] == "Only the first 24 word pieces were read."


def test_nothing_is_reported_to_anybody(run, monkeypatch):
    import gradio

    monkeypatch.setattr("gradio.analytics._do_analytics_request", pytest.fail, raising=False)
    monkeypatch.setattr("gradio.analytics._do_normal_analytics_request", pytest.fail, raising=False)
    built = demo.build(demo.Classifier(run), title="x")
    assert not built.analytics_enabled and not gradio.analytics.analytics_enabled()


def test_another_kind_of_model_is_refused(tmp_path):
    run = tiny_run.write(tmp_path / "run", labels=["value"])
    with (
        pytest.raises(InvalidValue, match="labels for texts come from a classifier"),
        demo.serve(run),
    ):
        pass


def test_a_folder_without_a_model_and_a_wrong_port_are_named(run, tmp_path):
    with pytest.raises(CourseError, match="no trained model"), demo.serve(tmp_path):
        pass
    with pytest.raises(InvalidValue, match="port is 80"), demo.serve(run, port=80):
        pass


def test_a_taken_port_is_named(run):
    with demo.serve(run) as address:
        port = urlparse(address).port
        with pytest.raises(InvalidValue, match=f"port {port} cannot"), demo.serve(run, port=port):
            pass


def test_without_gradio_the_next_step_is_named(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(CourseError, match="pip install"), demo.serve(run):
        pass


class TestFeedback:
    def log(self, tmp_path):
        times = iter(range(100))
        return FeedbackLog(tmp_path / "log.jsonl", ["no", "yes"], clock=lambda: next(times))

    def test_the_last_word_counts_and_agreement_is_counted(self, tmp_path):
        log = self.log(tmp_path)
        first, second, third = (log.record(f"text {i}", "no", 0.9) for i in range(3))
        log.correct(first, "yes")
        log.correct(first, "no")
        log.correct(second, "yes")
        assert log.summary() == {
            "predictions": 3, "answered": 2, "agreed": 1, "confusions": {("no", "yes"): 1},
        }  # fmt: skip
        assert [row["corrected"] for row in log.predictions()] == ["no", "yes", None]
        assert third == log.predictions()[2]["id"]

    def test_a_line_cut_short_costs_that_line_alone(self, tmp_path):
        log = self.log(tmp_path)
        log.record("kept", "no", 0.5)
        with log.path.open("ab") as file:
            file.write(b'{"kind": "prediction", "id": "abc", "te')
        log.record("after", "yes", 0.5)
        assert [row["text"] for row in log.predictions()] == ["kept", "after"]

    def test_wrong_entries_are_refused(self, tmp_path):
        log = self.log(tmp_path)
        with pytest.raises(InvalidValue, match="Did you mean 'yes'"):
            log.record("x", "yess", 0.5)
        with pytest.raises(InvalidValue, match="no prediction 'abc'"):
            log.correct("abc", "yes")
        assert not log.path.exists()

    def test_another_file_is_no_log(self, tmp_path):
        log = self.log(tmp_path)
        log.path.write_text(json.dumps({"kind": "other"}), encoding="utf-8")
        with pytest.raises(CourseError, match="not a feedback log"):
            log.predictions()
