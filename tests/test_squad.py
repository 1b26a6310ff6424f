"""helpers.evaluation.squad: scores worked out on paper, and the baseline that compares words."""
