"""The errors that are meant for the person at the keyboard.

A ``CourseError`` says what failed, with which value, what would have been allowed and what
to do next; the command line prints it without a traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class CourseError(Exception):
    """Something failed that the learner can understand and act on."""


class InvalidValue(CourseError, ValueError):
    """An argument is outside its allowed range; nothing has been started."""


class AssetError(CourseError):
    """A model or data set could not be fetched or verified."""


class NonFiniteLoss(CourseError):
    """Training met a loss that is infinite or not a number."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InvalidValue:
    """The error for a name that does not exist: what was asked for, what is near, what there is."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return InvalidValue(f"unknown {kind} {name!r}.{hint} There are: {', '.join(known)}.")
