"""Errors written for the person at the keyboard.

The message of a ``CourseError`` names what failed and the value it failed on, what is allowed,
and what to do next. The command line prints the message without a traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class CourseError(Exception):
    """Something failed in a way that the learner can understand and fix."""


class InvalidValue(CourseError, ValueError):
    """An argument is outside its allowed range; raised before any work starts."""


class AssetError(CourseError):
    """A model or data set could not be downloaded or verified."""


class NonFiniteLoss(CourseError):
    """The training loss became infinite or NaN."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InvalidValue:
    """The error for a name that doesn't exist, with the closest match and all known names."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return InvalidValue(f"unknown {kind} {name!r}.{hint} There are: {', '.join(known)}.")
