"""A model card made from what a run recorded: what the model is for, what it was trained on, how
good it is and how certain that is, and what was not measured. All numbers come from metrics.json.

The form is the Hub's: Markdown under a block of YAML that ``huggingface_hub.ModelCard`` reads
(Mitchell et al. 2019, Model Cards for Model Reporting, for what a card should say).
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.assets import catalog
from helpers.corpora.tables import is_table
from helpers.errors import CourseError, InvalidValue, unknown_name
from helpers.files import write_text

SECTIONS = ("Intended use", "Out of scope", "Data", "Training", "Scores", "Bias", "Limits")
LICENCES = (
    "afl-3.0, apache-2.0, bsd-2-clause, bsd-3-clause, cc-by-4.0, cc-by-nc-4.0, cc-by-nc-sa-4.0, "
    "cc-by-sa-4.0, cc0-1.0, gpl-3.0, lgpl-3.0, mit, mpl-2.0, openrail, other, unknown"
)
NOT_MEASURED = "No bias was measured"
BASELINES = {  # as a table names them, in its order
    "tfidf_logreg": "TF-IDF + logistic regression",
    "majority": "majority class",
    "gazetteer": "names seen in training",
    "types": "commonest for the two types",
    "sliding_window": "sliding window of words",
    "silent": "always silent",
}
_PIPELINES = {"entities": "token-classification", "questions": "question-answering"}
_EMPTY = re.compile(r"\bTODO\b|\bTBD\b|More Information Needed|^\W*\.\.\.\W*$", re.I | re.M)


@dataclass(frozen=True)
class Description:
    """What only the author of a model can say about it.

    name: of the model. intended_use, out_of_scope: in your own words. data: where the texts come
    from and whose they are; not needed for the course's own data sets. licence: one of LICENCES.
    language: of the texts, as a code of two or three letters.
    Raises InvalidValue: an empty answer, an unknown licence, a language in another form.
    """

    name: str
    intended_use: str
    out_of_scope: str
    data: str | None = None
    licence: str = "apache-2.0"
    language: str = "en"

    def __post_init__(self) -> None:
        for field in ("name", "intended_use", "out_of_scope"):
            value = getattr(self, field)
            if not value.strip() or _EMPTY.search(value):
                raise InvalidValue(f"{field} is {value!r}; say it in a sentence of your own.")
        if self.licence not in LICENCES.split(", "):
            raise unknown_name("licence", self.licence, LICENCES.split(", "))
        if not re.fullmatch("[a-z]{2,3}", self.language):
            raise InvalidValue(
                f"language is {self.language!r}; give its code of two or three letters, such as en."
            )


def write_card(run: str | Path, description: Description) -> Path:
    """Write ``run/model/README.md`` for what ``train`` left in the folder ``run``.

    Raises CourseError: no finished run there; InvalidValue: as ``card_text``.
    """
    run = Path(run)
    metrics = read_metrics(run)
    config = run / "model" / "config.json"
    if not config.is_file():
        raise CourseError(f"{run} holds no model/config.json: train first, with --out {run}.")
    names = json.loads(config.read_text(encoding="utf-8")).get("id2label", {})
    text = card_text(metrics, description, labels=list(names.values()))
    return write_text(run / "model" / "README.md", text)


def read_metrics(run: Path) -> dict[str, Any]:
    """The metrics.json of a finished run; CourseError if there is none or it has another form."""
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
    """Add what was measured of bias to ``run/metrics.json``.

    what: the comparison in words. measures: {name: (value, low, high)}, such as the estimates of
    ``fairness.counterfactual_gap``. An earlier entry with the same words is replaced.
    Raises InvalidValue: no words, no measures, or a value outside its interval.
    """
    if not what.strip() or not measures:
        raise InvalidValue("say in words what was compared, and give at least one measure.")
    run = Path(run)
    metrics = read_metrics(run)
    entry = metrics.setdefault("bias", {})[what.strip()] = {}
    for name, numbers in measures.items():
        value, low, high = map(float, numbers)
        if not low <= value <= high:
            raise InvalidValue(f"{name} is {value}, outside its interval [{low}, {high}].")
        entry[name] = {"value": value, "interval": [low, high]}
    write_text(run / "metrics.json", json.dumps(metrics, indent=2) + "\n")


def card_text(
    metrics: Mapping[str, Any], description: Description, *, labels: Sequence[str] = ()
) -> str:
    """The card as text. metrics: as in metrics.json. labels: of a classifier, in their order.

    Raises InvalidValue: a data set that isn't the course's, and no ``description.data``;
    CourseError: no score with an interval.
    """
    from huggingface_hub import ModelCard, ModelCardData

    pipeline = _PIPELINES.get(metrics["task"], "text-classification")
    header = ModelCardData(
        language=description.language,
        license=description.licence,
        base_model=_hub_name(str(metrics.get("model", ""))),
        pipeline_tag=pipeline,
        library_name="transformers",
        model_name=description.name,
        eval_results=_results(metrics, pipeline),
    )
    content = {
        "Intended use": description.intended_use.strip(),
        "Out of scope": description.out_of_scope.strip(),
        "Data": _data(metrics, description.data),
        "Training": _training(metrics),
        "Scores": _scores(metrics),
        "Bias": _bias(metrics),
        "Limits": _limits(metrics),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in content.items())
    classes = f"Labels: {', '.join(labels)}.\n\n" if labels else ""
    text = f"---\n{header.to_yaml()}\n---\n\n# {description.name.strip()}\n\n{classes}{body}\n"
    ModelCard(text)  # raises if the metadata are inconsistent
    return text


def find_faults(text: str, metrics: Mapping[str, Any] | None = None) -> list[str]:
    """What is wrong with a card, one sentence per fault; empty for a complete card.

    metrics: if given, the card's scores must be the ones in there.
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
    licence = data.get("license")
    if licence and licence not in LICENCES.split(", "):
        faults.append(f"the licence {licence!r} isn't one of {LICENCES}")
    body = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    for title in SECTIONS:
        content = body.get(title, "").strip()
        if len(content.split()) < 3 or _EMPTY.search(content):
            faults.append(f"the section '{title}' is missing or empty")
    if metrics is not None and data.get("eval_results"):
        stated = {r.metric_name.split(" (")[0]: r.metric_value for r in data.get("eval_results")}
        for key in _measured(metrics["test"]):
            if stated.get(_title(key)) != round(metrics["test"][key], 4):
                faults.append(f"its {_title(key)} is not the one in metrics.json")
    return faults


def _hub_name(model: str) -> str | None:
    """The base model's name on the Hub, if it has one: the metadata allow no other."""
    known = catalog.load_catalog()
    if model in known:
        return next((s.repository for s in known[model].sources if s.kind == "hub"), None)
    return model if re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not Path(model).exists() else None


def _results(metrics: Mapping[str, Any], pipeline: str) -> list[Any]:
    from huggingface_hub import EvalResult

    test, task = metrics["test"], metrics["task"]
    if not _measured(test):
        raise CourseError("metrics.json has no score with an interval: evaluate the model again.")
    return [
        EvalResult(
            task_type=pipeline,
            dataset_type=task,
            dataset_name=task,
            dataset_split="test",
            metric_type="f1" if key.endswith("_f1") else key,
            metric_name=f"{_title(key)} (95 % interval {_interval(test, key)})",
            metric_value=round(test[key], 4),
        )
        for key in _measured(test)
    ]


def _measured(scores: Mapping[str, Any]) -> list[str]:
    """The scores that have an interval; a card states no others."""
    return [key for key in scores if f"{key}_interval" in scores]


def _title(key: str) -> str:
    """A score's name as the card shows it."""
    return key.replace("_", " ").replace("f1", "F1")


def _interval(scores: Mapping[str, Any], key: str) -> str:
    """A score's interval as the card shows it."""
    low, high = scores[f"{key}_interval"]
    return f"{low:.3f} to {high:.3f}"


def _data(metrics: Mapping[str, Any], data: str | None) -> str:
    """What the model was trained on."""
    asset = catalog.load_catalog().get(metrics["task"])
    if data is None and asset is None:
        raise InvalidValue(
            f"{metrics['task']} isn't one of the course's data sets: say where its texts come "
            f"from and whose they are (data)."
        )
    lines = [data.strip()] if data else []
    if asset is not None:
        lines.append(f"{asset.title}. Licence: {asset.licence}. Source: {asset.citation}.")
    if "examples" in metrics:
        lines.append(f"{metrics['examples']:,} training examples.")
    if asset is not None or is_table(Path(metrics["task"])):
        lines.append("Duplicates were removed before the split into train, validation and test.")
    return "\n\n".join(lines)


def _training(metrics: Mapping[str, Any]) -> str:
    """What it takes to train the model again."""
    asset = catalog.load_catalog().get(metrics.get("model", ""))
    base = f"{asset.title} (licence: {asset.licence})" if asset else metrics.get("model", "?")
    titles = {
        "seed": "seed",
        "precision": "arithmetic",
        "device": "device",
        "max_length": "word pieces per text at most",
    }
    lines = [f"- {title}: {metrics[key]}" for key, title in titles.items() if key in metrics]
    return "\n".join([f"- pretrained model: {base}", *lines])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(cells).strip()} |" for cells in (header, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(header)}", *lines[1:]])


def _scores(metrics: Mapping[str, Any]) -> str:
    """The test scores next to the baselines', and what the comparison shows."""
    test, keys = metrics["test"], _measured(metrics["test"])
    baselines = metrics.get("baseline", {})
    models = {"this model": test} | {BASELINES.get(k, _title(k)): v for k, v in baselines.items()}

    def cell(scores: Mapping[str, Any], key: str) -> str:
        measured = f"{key}_interval" in scores
        return f"{scores[key]:.3f} ({_interval(scores, key)})" if measured else "–"

    rows = [[name, *(cell(scores, key) for key in keys)] for name, scores in models.items()]
    table = _table(["", *map(_title, keys)], rows)
    verdict = _verdict(test, baselines, keys[0])
    return f"On the test set, with 95 % intervals:\n\n{table}\n\n{verdict}"


def _verdict(test: Mapping[str, Any], baselines: Mapping[str, Any], key: str) -> str:
    """What the comparison with the best baseline shows."""
    scored = {name: scores[key] for name, scores in baselines.items() if key in scores}
    if not scored:
        return "No baseline was measured, so nothing shows whether this is good."
    best = max(scored, key=scored.__getitem__)
    name, (low, high) = BASELINES.get(best, _title(best)), test[f"{key}_interval"]
    if scored[best] > high:
        return f"**The baseline ({name}) does better.** Use that."
    if scored[best] >= low:
        return f"The best baseline ({name}) is within this model's interval: no clear gain."
    return f"The best baseline ({name}) is below this model's interval."


def _bias(metrics: Mapping[str, Any]) -> str:
    """What ``record_bias`` recorded, or that nothing was measured."""
    if not metrics.get("bias"):
        return (
            f"{NOT_MEASURED}. That does not mean there is none: measure it for the groups "
            f"your texts mention before the model decides anything about people."
        )
    rows = [
        (what, _title(name), f"{found['value']:.3f}", "{:.3f} to {:.3f}".format(*found["interval"]))
        for what, measures in metrics["bias"].items()
        for name, found in measures.items()
    ]
    table = _table(("what was compared", "measure", "value", "95 % interval"), rows)
    return f"{table}\n\nWhat is not in this table was not measured."


def _limits(metrics: Mapping[str, Any]) -> str:
    """What the numbers do not show."""
    lines = [
        "- The intervals show how far the scores would move with other test examples drawn in the "
        "same way. On texts of another kind, place or time the scores may be far lower.",
        "- The scores come from one training run; other seeds give other scores.",
    ]
    if cut := metrics.get("truncated", {}).get("test"):
        lines.append(
            f"- {cut:,} test texts were longer than the model reads; their ends were cut off."
        )
    return "\n".join(lines)
