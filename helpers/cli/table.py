"""Test scores as a table of plain text."""

from typing import Any

from helpers.hardware.plan_report import aligned
from helpers.shipping.model_card import BASELINES


def score_table(metrics: dict[str, Any]) -> str:
    """The test scores beside their baselines, with 95 % intervals, as text."""
    test, baselines = metrics["test"], metrics["baseline"]
    known = {title: baselines[name] for name, title in BASELINES.items() if name in baselines}
    measured = [name for name in test if f"{name}_interval" in test]
    classes = list(test.get("per_class", test.get("per_label", {})))
    shown = classes if len(classes) != 2 else classes[-1:]
    titles = {"macro_f1": "macro F1", "f1": "F1", "exact_match": "exact match"}
    header = ["test set", *(titles.get(name, name) for name in measured)]
    rows = [[*header, *(f"F1 {name}" for name in shown)]]
    for name, scores in {"fine-tuned": test, **known}.items():
        each = scores.get("per_class", scores.get("per_label", {}))
        per_class = [each.get(label, {"f1": 0.0}) for label in shown]
        cells = [_cell(scores, key) for key in measured]
        rows.append([name, *cells, *(_cell(values, "f1", len(shown) == 1) for values in per_class)])
    table = aligned(rows)
    counted = baselines.get("tfidf_logreg")
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


def _cell(scores: dict[str, Any], key: str, with_interval: bool = True) -> str:
    if not with_interval or f"{key}_interval" not in scores:
        return f"{scores[key]:.3f}"
    low, high = scores[f"{key}_interval"]
    return f"{scores[key]:.3f} [{low:.3f}, {high:.3f}]"
