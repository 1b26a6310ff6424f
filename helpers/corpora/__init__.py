"""Data sets: catalogued ones and a table of your own, cleaned, without duplicates, split once."""

from helpers.corpora.loading import (
    NEUTRAL,
    cleaning_report,
    fold,
    label_names,
    load,
    load_csv,
    raw,
)

__all__ = ["NEUTRAL", "cleaning_report", "fold", "label_names", "load", "load_csv", "raw"]
