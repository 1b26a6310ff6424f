"""The errors that are meant for the person at the keyboard.

A ``CourseError`` says what failed, with which value, what would have been allowed and what
to do next; the command line prints it without a traceback.
"""


class CourseError(Exception):
    """Something failed that the learner can understand and act on."""


class InvalidValue(CourseError, ValueError):
    """An argument is outside its allowed range; nothing has been started."""


class AssetError(CourseError):
    """A model or data set could not be fetched or verified."""


class NonFiniteLoss(CourseError):
    """Training met a loss that is infinite or not a number."""
