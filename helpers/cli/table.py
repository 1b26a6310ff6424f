"""Test scores as a table of plain text."""

from collections.abc import Sequence
from typing import Any

from helpers.shipping.model_card import BASELINES


def score_table(metrics: dict[str, Any]) -> str:
    """The test scores beside their baselines, with 95 % intervals, as text."""
    test = metrics["test"]
    rows = {"fine-tuned": test} | {
        BASELINES[name]: metrics["baseline"][name]
        for name in BASELINES
        if name in metrics["baseline"]
    }
    measured = [name for name in test if f"{name}_interval" in test]
    classes = list(test.get("per_class", test.get("per_label", {})))
    shown = classes if len(classes) != 2 else classes[-1:]
    titles = {"macro_f1": "macro F1", "f1": "F1", "exact_match": "exact match"}
    header = ["test set", *(titles.get(name, name) for name in measured)]
    header += [f"F1 {name}" for name in shown]
    lines = []
    for name, scores in rows.items():
        cells = [_with_interval(scores[key], scores[f"{key}_interval"]) for key in measured]
        each = scores.get("per_class", scores.get("per_label", {}))
        for label in shown:
            values = each.get(label, {"f1": 0.0})
            cells.append(
                _with_interval(values["f1"], values["f1_interval"])
                if len(shown) == 1 and "f1_interval" in values
                else f"{values['f1']:.3f}"
            )
        lines.append([name, *cells])
    widths = [max(len(row[i]) for row in [header, *lines]) for i in range(len(header))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *lines]
    ]
    counted = metrics["baseline"].get("tfidf_logreg")
    if counted and counted["macro_f1"] > test["macro_f1"]:
        low, high = test["macro_f1_interval"]
        clearly = "" if low <= counted["macro_f1"] <= high else " clearly"
        table += [
            "",
            f"Counting words does{clearly} better here: where single words give the class away, a "
            "transformer has",
            "little to add and many more weights to fit. Lesson 08 shows how to compare the two.",
        ]
    return "\n".join(table)


def _with_interval(value: float, interval: Sequence[float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
