"""The course's training and evaluation code; import the module you need, for example
``from helpers import corpora, training``. Importing ``helpers`` alone loads nothing heavy."""

__version__ = "0.1.0"
