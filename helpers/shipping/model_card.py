"""A model card from what a run wrote down: what the model is for, on what it was trained, how good
it is and how sure that is, and what was not measured. Numbers come from metrics.json alone.

The form is the Hub's: Markdown under a block of YAML that ``huggingface_hub.ModelCard`` reads
(Mitchell et al. 2019, Model Cards for Model Reporting, for what a card should say).
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from helpers.assets import catalog
from helpers.errors import CourseError, InvalidValue, unknown_name
from helpers.files import write_text
from helpers.shipping import card_sections as sections

SECTIONS = ("Intended use", "Out of scope", "Data", "Training", "Scores", "Bias", "Limits")
LICENCES = (
    "afl-3.0", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc-by-sa-4.0", "cc0-1.0", "gpl-3.0", "lgpl-3.0", "mit", "mpl-2.0",
    "openrail", "other", "unknown",
)  # fmt: skip
_PIPELINES = {"entities": "token-classification", "questions": "question-answering"}
_METRIC_TYPES = {"macro_f1": "f1", "micro_f1": "f1"}
_EMPTY = re.compile(r"\bTODO\b|\bTBD\b|More Information Needed|^\W*\.\.\.\W*$", re.I | re.M)


def write_card(
    run: str | Path,
    *,
    name: str,
    intended_use: str,
    out_of_scope: str,
    data: str | None = None,
    licence: str = "apache-2.0",
    language: str = "en",
) -> Path:
    """Write ``run/model/README.md`` for what ``train`` left in the folder ``run``.

    name: of the model. intended_use, out_of_scope: in your own words: no number knows them.
    data: where the texts come from and whose they are; the course's own data sets need none.
    licence: one of LICENCES. language: of the texts, two or three letters.
    Raises InvalidValue: an empty answer, an unknown licence, a language of another form.
    CourseError: no finished run there.
    """
    run = Path(run)
    metrics = read_metrics(run)
    config = run / "model" / "config.json"
    if not config.is_file():
        raise CourseError(f"{run} holds no model/config.json: train first, with --out {run}.")
    names = json.loads(config.read_text(encoding="utf-8")).get("id2label", {})
    text = card_text(
        metrics,
        labels=list(names.values()),
        name=name,
        intended_use=intended_use,
        out_of_scope=out_of_scope,
        data=data,
        licence=licence,
        language=language,
    )
    return write_text(run / "model" / "README.md", text)


def read_metrics(run: Path) -> dict[str, Any]:
    """The metrics.json of a finished run; CourseError if there is none or it is no such file."""
    path = run / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(metrics, dict) or not isinstance(metrics.get("test"), dict):
            raise ValueError("it has no scores under 'test'")
        return metrics
    except (OSError, ValueError) as error:
        raise CourseError(
            f"{path} cannot be used ({error}). A finished run writes it: python -m helpers train "
            f"reviews --out {run}"
        ) from None


def record_bias(run: str | Path, what: str, measures: Mapping[str, Iterable[float]]) -> None:
    """Add to ``run/metrics.json`` what was measured of bias.

    what: the comparison in words. measures: {name: (value, low, high)}, such as the estimates of
    ``fairness.counterfactual_gap``. An earlier entry of the same words is replaced.
    Raises InvalidValue: no words, no measures, or a value outside its interval.
    """
    entry: dict[str, Any] = {}
    for name, numbers in measures.items():
        value, low, high = map(float, numbers)
        if not low <= value <= high:
            raise InvalidValue(f"{name} is {value}, outside its interval [{low}, {high}].")
        entry[name] = {"value": value, "interval": [low, high]}
    if not what.strip() or not entry:
        raise InvalidValue("say in words what was compared, and give at least one measure.")
    run = Path(run)
    metrics = read_metrics(run)
    metrics.setdefault("bias", {})[what.strip()] = entry
    write_text(run / "metrics.json", json.dumps(metrics, indent=2) + "\n")


def card_text(
    metrics: Mapping[str, Any],
    *,
    labels: list[str],
    name: str,
    intended_use: str,
    out_of_scope: str,
    data: str | None = None,
    licence: str = "apache-2.0",
    language: str = "en",
) -> str:
    """The card as text; see ``write_card``."""
    for what, value in (
        ("name", name),
        ("intended_use", intended_use),
        ("out_of_scope", out_of_scope),
    ):
        if not value.strip() or _EMPTY.search(value):
            raise InvalidValue(f"{what} is {value!r}; say it in a sentence of your own.")
    if licence not in LICENCES:
        raise unknown_name("licence", licence, LICENCES)
    if not re.fullmatch("[a-z]{2,3}", language):
        raise InvalidValue(f"language is {language!r}; give its code of two or three letters: en.")
    from huggingface_hub import ModelCard, ModelCardData

    header = ModelCardData(
        language=language,
        license=licence,
        base_model=_hub_name(str(metrics.get("model", ""))),
        pipeline_tag=_PIPELINES.get(metrics["task"], "text-classification"),
        library_name="transformers",
        model_name=name,
        eval_results=_results(metrics),
    )
    content = {
        "Intended use": intended_use.strip(),
        "Out of scope": out_of_scope.strip(),
        "Data": sections.data_section(metrics, data),
        "Training": sections.training_section(metrics),
        "Scores": sections.scores_section(metrics),
        "Bias": sections.bias_section(metrics),
        "Limits": sections.limits_section(metrics),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in content.items())
    gives = f"Labels: {', '.join(labels)}.\n\n" if labels else ""
    text = f"---\n{header.to_yaml()}\n---\n\n# {name.strip()}\n\n{gives}{body}\n"
    ModelCard(text)  # it raises for metadata that do not hold together
    return text


def find_faults(text: str, metrics: Mapping[str, Any] | None = None) -> list[str]:
    """What is wrong with a card, each in a sentence; nothing for a complete one.

    metrics: also compare its scores with those.
    """
    from huggingface_hub import ModelCard

    try:
        data = ModelCard(text).data
    except Exception as error:  # yaml and huggingface_hub each raise their own kinds
        return [f"its metadata cannot be read: {' '.join(str(error).split())[:200]}"]
    faults = [
        f"the metadata lack {key}"
        for key in ("language", "license", "pipeline_tag", "eval_results")
        if not data.get(key)
    ]
    if data.get("license") and data.get("license") not in LICENCES:
        faults.append(f"the licence {data.get('license')!r} is none of {', '.join(LICENCES)}")
    body = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    for title in SECTIONS:
        content = body.get(title, "").strip()
        if len(content.split()) < 3 or _EMPTY.search(content):
            faults.append(f"the section '{title}' is missing or empty")
    if metrics is not None and data.get("eval_results"):
        stated = {r.metric_name.split(" (")[0]: r.metric_value for r in data.get("eval_results")}
        for key in sections.measured(metrics["test"]):
            if stated.get(sections.title(key)) != round(metrics["test"][key], 4):
                faults.append(f"its {sections.title(key)} is not the one in metrics.json")
    return faults


def _hub_name(model: str) -> str | None:
    """The Hub's name of the base model: only such a name may stand in the metadata."""
    known = catalog.load_catalog()
    if model in known:
        return next((s.repository for s in known[model].sources if s.kind == "hub"), None)
    return model if re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not Path(model).exists() else None


def _results(metrics: Mapping[str, Any]) -> list[Any]:
    from huggingface_hub import EvalResult

    test = metrics["test"]
    if not sections.measured(test):
        raise CourseError("metrics.json has no score with an interval: evaluate the model again.")
    return [
        EvalResult(
            task_type=_PIPELINES.get(metrics["task"], "text-classification"),
            dataset_type=metrics["task"],
            dataset_name=metrics["task"],
            dataset_split="test",
            metric_type=_METRIC_TYPES.get(key, key),
            metric_name=f"{sections.title(key)} (95 % interval {sections.interval(test, key)})",
            metric_value=round(test[key], 4),
        )
        for key in sections.measured(test)
    ]
