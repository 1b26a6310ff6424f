"""A page on this computer to try a text classifier, and a log of what people say it got wrong.

Gradio draws the page. It is served on loopback only, is shared with nobody, sends no statistics
and loads no font or script from elsewhere, so it works without a network. The log holds the texts:
tell the people who write them, and keep it where your rules allow.
"""

import json
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers import batches, evaluation
from helpers.errors import CourseError, InvalidValue, unknown_name
from helpers.shipping.batch_prediction import label_names
from helpers.tasks.running import load_run

ASK = "Type a text first."


class Classifier:
    """A saved model as a function of one text. Raises CourseError: no model in ``folder``;
    InvalidValue: a model that isn't a text classifier."""

    def __init__(self, folder: str | Path) -> None:
        self.model, self.tokenizer = load_run(Path(folder))
        self.labels = label_names(self.model, Path(folder))

    def __call__(self, text: str) -> tuple[dict[str, float], str]:
        """The probability of each label, and a remark ("" if there is none). Without a text there
        are no probabilities, and the remark asks for one."""
        if not text.strip():
            return {}, ASK
        limit = self.tokenizer.model_max_length
        encoded = batches.encode(self.tokenizer, [text], max_length=limit)
        (row,) = evaluation.predict(self.model, encoded).probabilities
        cut = f"Only the first {limit} word pieces were read." if encoded.truncated else ""
        return dict(zip(self.labels, row.tolist(), strict=True)), cut


class FeedbackLog:
    """The log at ``path``: one JSON object per line, only ever appended to.

    labels: of the model, in its order. A line cut short by a crash is skipped when reading.
    """

    def __init__(
        self, path: str | Path, labels: list[str], *, clock: Callable[[], float] = time.time
    ) -> None:
        self.path, self.labels, self._clock = Path(path), labels, clock

    def record(self, text: str, label: str, probability: float) -> str:
        """Record a prediction; returns the id under which it can be corrected. Raises InvalidValue
        for a label that the model does not have."""
        id = secrets.token_hex(8)
        self._append("prediction", id, label, {"text": text, "probability": probability})
        return id

    def correct(self, id: str, label: str) -> None:
        """Record the label that a person says is right; the last one for an id counts. ``label``
        may be the predicted one: agreement is feedback too. Raises InvalidValue: unknown id or
        label."""
        if id not in {row["id"] for row in self.predictions()}:
            raise InvalidValue(f"there is no prediction {id!r} in {self.path.name}.")
        self._append("correction", id, label, {})

    def predictions(self) -> list[dict[str, Any]]:
        """All predictions in order: id, time, text, label, probability, and ``corrected``: a
        person's last answer, or None."""
        lines = self._lines()
        corrected = {line["id"]: line["label"] for line in lines if line["kind"] == "correction"}
        return [
            line | {"corrected": corrected.get(line["id"])}
            for line in lines
            if line["kind"] == "prediction"
        ]

    def summary(self) -> dict[str, Any]:
        """``predictions``, ``answered`` (by a person), ``agreed``, and ``confusions``:
        {(predicted, right): count} of the wrong ones. ``agreed / answered`` isn't the accuracy:
        people answer mostly when something strikes them."""
        rows = self.predictions()
        answered = [row for row in rows if row["corrected"] is not None]
        wrong = [row for row in answered if row["corrected"] != row["label"]]
        return {
            "predictions": len(rows),
            "answered": len(answered),
            "agreed": len(answered) - len(wrong),
            "confusions": dict(Counter((row["label"], row["corrected"]) for row in wrong)),
        }

    def _append(self, kind: str, id: str, label: str, more: dict[str, Any]) -> None:
        """Write one whole line, and wait until it is on the disk."""
        if label not in self.labels:
            raise unknown_name("label", label, self.labels)
        line = {"kind": kind, "id": id, **more, "label": label, "time": self._clock()}
        content = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            content = b"\n" + content  # a crash cut off the last line
        with self.path.open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def _lines(self) -> list[dict[str, Any]]:
        content = self.path.read_text("utf-8", "replace") if self.path.exists() else ""
        kept = []
        for line in content.split("\n"):
            try:
                kept.append(json.loads(line))
            except ValueError:
                continue
        kinds = ("prediction", "correction")
        if any(not isinstance(line, dict) or line.get("kind") not in kinds for line in kept):
            raise CourseError(f"{self.path} is not a feedback log; name another file.")
        return kept


def build(classifier: Classifier, *, title: str, log: FeedbackLog | None = None) -> Any:
    """The page as ``gradio.Blocks``: a text, a button, the labels with their probabilities and,
    if there is a log, a way to correct them."""
    gradio = _gradio()

    def answer(text: str) -> tuple[dict[str, float] | None, str, str]:
        probabilities, remark = classifier(text)
        if not probabilities:
            return None, remark, ""
        label = max(probabilities, key=probabilities.__getitem__)
        return probabilities, remark, log.record(text, label, probabilities[label]) if log else ""

    def correct(id: str, label: str | None) -> str:
        if not id:
            return "Classify a text first."
        if label is None:
            return "Choose the right label first."
        log.correct(id, label)  # type: ignore[union-attr]  # called only where there is a log
        return f"Thank you: noted as {label}."

    with gradio.Blocks(title=title, analytics_enabled=False) as page:
        gradio.Markdown(f"# {title}")
        text = gradio.Textbox(label="Text", lines=3, elem_id="text")
        button = gradio.Button("Classify", variant="primary", elem_id="classify")
        label = gradio.Label(label="Label and probability", elem_id="label")
        remark = gradio.Markdown(elem_id="remark")
        id = gradio.State("")
        outputs = [label, remark, id]
        button.click(answer, text, outputs, api_name="classify")
        text.submit(answer, text, outputs, api_name=False)
        if log is not None:
            gradio.Markdown(
                f"Wrong? Say what is right. Texts, answers and corrections are kept in "
                f"`{log.path.name}` on this computer."
            )
            right = gradio.Radio(classifier.labels, label="Right label", elem_id="right")
            send = gradio.Button("Send correction", elem_id="send")
            thanks = gradio.Markdown(elem_id="thanks")
            send.click(correct, [id, right], thanks, api_name=False)
    return page


@contextmanager
def serve(
    folder: str | Path, *, port: int | None = None, log: str | Path | None = None
) -> Iterator[str]:
    """The page of the model in ``folder`` while the block runs; yields its address.

    port: 1024 to 65535; None: a free one. log: file for texts, answers and corrections; None:
    nothing is kept. Raises InvalidValue: a port that is out of range or taken, a model that isn't
    a text classifier. CourseError: no model there, or Gradio is not installed.
    """
    if port is not None and not 1024 <= port <= 65535:
        raise InvalidValue(f"port is {port}; it must be from 1024 to 65535.")
    gradio = _gradio()
    classifier = Classifier(folder)
    feedback = FeedbackLog(log, classifier.labels) if log is not None else None
    page = build(classifier, title=f"Try the model: {Path(folder).resolve().name}", log=feedback)
    own = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    try:
        _, address, _ = page.launch(
            server_name="127.0.0.1",
            server_port=port,
            share=False,
            inline=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            theme=gradio.themes.Base(**own),
        )
    except OSError as error:
        raise InvalidValue(
            f"port {port or 'any'} cannot be used ({error}). Name another."
        ) from None
    try:
        yield address.rstrip("/")
    finally:
        page.close(verbose=False)


def wait() -> None:
    """Block until Ctrl+C."""
    threading.Event().wait()


def _gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError:
        remedy = 'Install it: python -m pip install "gradio>=6"'
        raise CourseError(f"the page needs Gradio. {remedy}") from None
    return gradio
