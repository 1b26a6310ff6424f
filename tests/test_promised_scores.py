"""The scores that a task's own settings are promised to reach. A file of its own, because tests of
one file stay in one process and these take minutes."""

import json

import pytest

from helpers.cli.main import main


@pytest.mark.parametrize(
    ("task", "score", "at_least"),
    [
        ("news", lambda test: test["accuracy"], 0.95),
        # Five minutes of training: in `make slow`.
        pytest.param("reviews", lambda test: test["accuracy"], 0.85, marks=pytest.mark.slow),
        ("messages", lambda test: test["per_class"]["spam"]["f1"], 0.95),
        pytest.param("entities", lambda test: test["f1"], 0.75, marks=pytest.mark.slow),
        pytest.param("relations", lambda test: test["macro_f1"], 0.3, marks=pytest.mark.slow),
        pytest.param("questions", lambda test: test["f1"], 0.45, marks=pytest.mark.slow),
    ],
)
def test_the_promised_scores(task, score, at_least, tmp_path, capsys):
    """With the task's own settings, beside baselines that learnt from the same texts."""
    assert main(["train", task, "--out", str(tmp_path / task)]) == 0
    with capsys.disabled():
        print(f"\n{capsys.readouterr().out}")
    metrics = json.loads((tmp_path / task / "metrics.json").read_text(encoding="utf-8"))
    assert score(metrics["test"]) >= at_least
    for baseline in metrics["baseline"].values():
        assert score(metrics["test"]) > score(baseline) or task == "news"
