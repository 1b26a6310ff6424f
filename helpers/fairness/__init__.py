"""Bias, measured (``counterfactuals`` makes pairs, ``gaps`` compares groups) and mitigated."""

from helpers.fairness.gaps import (
    RATES,
    Estimate,
    counterfactual_gap,
    group_gaps,
    group_rates,
    mean_estimate,
)

__all__ = [
    "RATES",
    "Estimate",
    "counterfactual_gap",
    "group_gaps",
    "group_rates",
    "mean_estimate",
]
