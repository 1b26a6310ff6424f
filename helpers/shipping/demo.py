"""A page on this computer to try a text classifier in, and to say where it is wrong.

Gradio draws it. It is served on loopback alone, is shared with nobody, sends no statistics and
loads no font or script from elsewhere, so it works without a network.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers import batches, evaluation
from helpers.errors import CourseError, InvalidValue
from helpers.shipping.batch_prediction import label_names
from helpers.shipping.feedback import FeedbackLog
from helpers.tasks.running import load_run

ASK = "Type a text first."


class Classifier:
    """A saved model as a function of one text. Raises as ``running.load_run``, and InvalidValue
    for a model that is no text classifier."""

    def __init__(self, folder: str | Path) -> None:
        self.model, self.tokenizer = load_run(Path(folder))
        self.labels = label_names(self.model, Path(folder))

    def __call__(self, text: str) -> tuple[dict[str, float], str]:
        """The probability of each label, and a remark ("" if there is nothing to say). Without a
        text there are no probabilities, and the remark asks for one."""
        if not text.strip():
            return {}, ASK
        limit = self.tokenizer.model_max_length
        encoded = batches.encode(self.tokenizer, [text], max_length=limit)
        (row,) = evaluation.predict(self.model, encoded).probabilities
        cut = f"Only the first {limit} word pieces were read." if encoded.truncated else ""
        return dict(zip(self.labels, row.tolist(), strict=True)), cut


def build(classifier: Classifier, *, title: str, log: FeedbackLog | None = None) -> Any:
    """The page as ``gradio.Blocks``: a text, a button, the labels with their probabilities and,
    with a log, a way to correct them."""
    gradio = _gradio()

    def answer(text: str) -> tuple[dict[str, float] | None, str, str]:
        probabilities, remark = classifier(text)
        if not probabilities:
            return None, remark, ""
        label = max(probabilities, key=probabilities.__getitem__)
        return (
            probabilities,
            remark,
            log.record(text, label, probabilities[label]) if log else "",
        )

    def correct(id: str, label: str | None) -> str:
        if not id:
            return "Classify a text first."
        if label is None:
            return "Choose the right label first."
        log.correct(id, label)
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
    nothing is kept. Raises InvalidValue: a port out of range or taken, a model of another kind.
    CourseError: no model there, or Gradio is not installed.
    """
    if port is not None and not 1024 <= port <= 65535:
        raise InvalidValue(f"port is {port}; it must be from 1024 to 65535.")
    gradio = _gradio()
    classifier = Classifier(folder)
    kept = FeedbackLog(log, classifier.labels) if log is not None else None
    name = Path(folder).resolve().name
    page = build(classifier, title=f"Try the model: {name}", log=kept)
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
    """Until the keyboard stops it."""
    threading.Event().wait()


def _gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError:
        raise CourseError(
            'the page needs Gradio. Install it: python -m pip install "gradio>=5"'
        ) from None
    return gradio
