"""How good a model is: its predictions, scores with intervals, and baselines to compare with."""

from helpers.evaluation.metrics import bootstrap_interval, mcnemar, paired_bootstrap, score
from helpers.evaluation.prediction import (
    Predictions,
    forward,
    majority_baseline,
    predict,
    tfidf_baseline,
    tfidf_pipeline,
)

__all__ = [
    "Predictions",
    "bootstrap_interval",
    "forward",
    "majority_baseline",
    "mcnemar",
    "paired_bootstrap",
    "predict",
    "score",
    "tfidf_baseline",
    "tfidf_pipeline",
]
