"""The paragraphs and tables of a model card, each from what metrics.json says."""

from collections.abc import Mapping
from typing import Any

from helpers.assets import catalog
from helpers.errors import InvalidValue

NOT_MEASURED = "No bias was measured"
BASELINES = {  # as a table names them, in its order
    "tfidf_logreg": "TF-IDF + logistic regression",
    "majority": "majority class",
    "gazetteer": "names seen in training",
    "types": "commonest for the two types",
    "sliding_window": "sliding window of words",
    "silent": "always silent",
}


def measured(scores: Mapping[str, Any]) -> list[str]:
    """The scores that have an interval, which are all that a card states."""
    return [key for key in scores if f"{key}_interval" in scores]


def title(key: str) -> str:
    """A score's key as it stands in the card."""
    return key.replace("_", " ").replace("f1", "F1")


def interval(scores: Mapping[str, Any], key: str) -> str:
    """A score's interval as it stands in the card."""
    low, high = scores[f"{key}_interval"]
    return f"{low:.3f} to {high:.3f}"


def data_section(metrics: Mapping[str, Any], data: str | None) -> str:
    """What it was trained on. InvalidValue: a task that is not the course's, and no ``data``."""
    asset = catalog.load_catalog().get(metrics["task"])
    if data is None and asset is None:
        raise InvalidValue(
            f"{metrics['task']} is no data set of the course: say where its texts come from and "
            f"whose they are (data)."
        )
    lines = [data.strip()] if data else []
    if asset is not None:
        lines += [f"{asset.title}. Licence: {asset.licence}. Source: {asset.citation}."]
    if "examples" in metrics:
        lines.append(f"{metrics['examples']:,} training examples.")
    if asset is not None or metrics["task"].lower().endswith((".csv", ".tsv")):
        lines.append("Duplicates were removed before the split into train, validation and test.")
    return "\n\n".join(lines)


def training_section(metrics: Mapping[str, Any]) -> str:
    """What it takes to train it again."""
    asset = catalog.load_catalog().get(metrics.get("model", ""))
    base = f"{asset.title} (licence: {asset.licence})" if asset else metrics.get("model", "?")
    lines = [f"- pretrained model: {base}"]
    for key, what in (
        ("seed", "seed"),
        ("precision", "arithmetic"),
        ("device", "device"),
        ("max_length", "word pieces a text is cut to"),
    ):
        if key in metrics:
            lines.append(f"- {what}: {metrics[key]}")
    return "\n".join(lines)


def scores_section(metrics: Mapping[str, Any]) -> str:
    """The test scores beside the baselines', and what the comparison allows to say."""
    test, keys = metrics["test"], measured(metrics["test"])
    baselines = metrics.get("baseline", {})
    rows = {"this model": test} | {BASELINES.get(k, title(k)): v for k, v in baselines.items()}
    lines = [
        "On the test set, with 95 % intervals:",
        "",
        f"| | {' | '.join(map(title, keys))} |",
        f"|---{'|---' * len(keys)}|",
    ]
    for name, scores in rows.items():
        cells = [
            f"{scores[key]:.3f} ({interval(scores, key)})" if f"{key}_interval" in scores else "–"
            for key in keys
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", _verdict(test, baselines, keys[0])]
    return "\n".join(lines)


def _verdict(test: Mapping[str, Any], baselines: Mapping[str, Any], key: str) -> str:
    """What the comparison with the best baseline allows to say."""
    scored = {name: scores[key] for name, scores in baselines.items() if key in scores}
    if not scored:
        return "No baseline was measured beside it, so nothing says whether this is good."
    best = max(scored, key=scored.__getitem__)
    name, (low, high) = BASELINES.get(best, title(best)), test[f"{key}_interval"]
    if scored[best] > high:
        return f"**The baseline ({name}) does better.** Use that."
    if scored[best] >= low:
        return f"The best baseline ({name}) lies within this model's interval: no clear gain."
    return f"The best baseline ({name}) lies below this model's interval."


def bias_section(metrics: Mapping[str, Any]) -> str:
    """What ``record_bias`` noted, or that nothing was measured."""
    if not metrics.get("bias"):
        return (
            f"{NOT_MEASURED}. That does not mean that there is none: measure it for the groups "
            f"your texts speak of before the model decides anything about people."
        )
    lines = ["| what was compared | measure | value | 95 % interval |", "|---|---|---|---|"]
    for what, measures in metrics["bias"].items():
        for name, found in measures.items():
            low, high = found["interval"]
            lines.append(
                f"| {what} | {title(name)} | {found['value']:.3f} | {low:.3f} to {high:.3f} |"
            )
    return "\n".join([*lines, "", "What is not in this table was not measured."])


def limits_section(metrics: Mapping[str, Any]) -> str:
    """What the numbers do not say."""
    lines = [
        "- The intervals say how far the scores would move with other test examples drawn in the "
        "same way. On texts of another kind, place or time the scores may be far lower.",
        "- The scores are of one training run; other seeds give others.",
    ]
    cut = metrics.get("truncated", {}).get("test") if "truncated" in metrics else None
    if cut:
        lines.append(f"- {cut:,} test texts were longer than the model reads; their ends are lost.")
    return "\n".join(lines)
