"""``Question``: an exercise with a check, hints and a solution; ``assert_close``."""

import functools
import textwrap
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Status = Literal["passed", "not attempted", "wrong"]
NOT_A_FUNCTION = "`answer` should be the function itself: leave its name, `answer`, as it was."


@dataclass(frozen=True)
class Result:
    """The result of a check: a status, and a sentence for the learner."""

    status: Status
    message: str


class _Untouched(BaseException):
    """A learner's function returned nothing. Not an ``Exception``, so that no check catches it."""

    def __init__(self, name: str, has_body: bool) -> None:
        super().__init__(name)
        self.name = name
        self.has_body = has_body


class Question:
    """One exercise.

    Args:
        id: lesson and number, such as ``"03.1"``.
        title: what the exercise is about, in a few words.
        check: called with the learner's answer; returns None if it is right, otherwise a sentence
            that names the mistake and helps. If it raises, the learner gets a friendly message.
        first_step: the first thing to do, shown as long as the starter is unchanged.
        hints: shown one by one by ``hint()``.
        solution: Python source that defines ``answer``. Where that is a function, anything that
            cannot be called is turned away before ``check``.
        passed: what the learner has just shown, said when the check passes.
    """

    def __init__(
        self,
        *,
        id: str,
        title: str,
        check: Callable[[Any], str | None],
        first_step: str,
        hints: tuple[str, ...],
        solution: str,
        passed: str,
    ) -> None:
        self.id = id
        self.title = title
        self.first_step = first_step
        self.hints = hints
        self.solution_source = solution.strip("\n")
        self.passed = passed
        self._check = check
        self._wants_function = "def answer(" in solution
        self._hints_shown = 0

    def __repr__(self) -> str:
        return f"<Question {self.id}: {self.title}>"

    def result(self, answer: Any) -> Result:
        """Check ``answer`` without printing anything."""
        if _is_blank(answer):
            return self._not_attempted()
        if self._wants_function and not callable(answer):
            return Result("wrong", NOT_A_FUNCTION)
        try:
            problem = self._check(_watch(answer))
        except _Untouched as untouched:
            return self._not_attempted(untouched)
        except Exception as error:
            return Result("wrong", _explain(answer, error))
        if problem is None:
            return Result("passed", self.passed)
        return Result("wrong", problem)

    def check(self, answer: Any) -> None:
        """Check ``answer`` and print the result."""
        found = self.result(answer)
        if found.status == "passed":
            _say(f"✓ {self.id} {self.title}: right. {found.message}")
        elif found.status == "wrong":
            _say(f"✗ {self.id} {self.title}: not yet. {found.message}")
        else:
            _say(f"○ {self.id} {self.title}: {found.message}")

    def hint(self) -> None:
        """Print the next hint; after the last one, start again with the first."""
        if not self.hints:
            _say(f"{self.id} has no hints. First step: {self.first_step}")
            return
        number = self._hints_shown % len(self.hints)
        self._hints_shown += 1
        _say(f"Hint {number + 1} of {len(self.hints)}: {self.hints[number]}")

    def solution(self) -> None:
        """Print the source of a right answer."""
        print(self.solution_source)

    def _not_attempted(self, untouched: _Untouched | None = None) -> Result:
        message = f"Not attempted yet. First step: {self.first_step}"
        if untouched is not None and untouched.has_body:
            message += f" (`{untouched.name}` gave back nothing: does it end with `return`?)"
        return Result("not attempted", message)


def _say(text: str) -> None:
    """Print in lines of at most 88 characters; notebooks break longer ones inside words."""
    for line in text.split("\n"):
        print(textwrap.fill(line, 88, break_long_words=False, break_on_hyphens=False))


def assert_close(actual: Any, expected: Any, tolerance: float, sentence: str) -> None:
    """Assert that two numbers or arrays agree, and print one line that never varies.

    Args:
        actual, expected: numbers, tensors or arrays of the same shape.
        tolerance: the largest allowed absolute difference, at least 0.
        sentence: what this shows; printed if it holds.

    Raises:
        AssertionError: the shapes differ, or two numbers differ by more (NaN always does).
    """
    a, b = _as_array(actual), _as_array(expected)
    if a.shape != b.shape:
        raise AssertionError(f"not shown: {sentence}. Shapes differ: {a.shape} and {b.shape}")
    with np.errstate(invalid="ignore"):
        difference = np.where(a == b, 0.0, np.abs(a - b))
    if not np.all(difference <= tolerance):
        where = np.unravel_index(np.argmax(np.nan_to_num(difference, nan=np.inf)), a.shape)
        place = f" at {tuple(int(i) for i in where)}" if a.ndim else ""
        raise AssertionError(
            f"not shown: {sentence}. Got {a[where]:.8g} and expected {b[where]:.8g}{place}, "
            f"which differ by {difference[where]:.3g}; allowed is {tolerance:g}"
        )
    print(f"✓ {sentence} (equal to within {tolerance:g})")


def _as_array(value: Any) -> np.ndarray:
    """A float64 array from a number, array or tensor (of any precision, on any device)."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().double().numpy()
    return np.asarray(value, dtype=np.float64)


def _is_blank(answer: Any) -> bool:
    """Whether this is an unchanged starter: None, ``...`` or a container with ``...`` in it."""
    if answer is None or answer is ...:
        return True
    if isinstance(answer, dict):
        answer = list(answer.values())
    return isinstance(answer, tuple | list) and any(part is ... for part in answer)


def _watch(answer: Any) -> Any:
    """A learner's function, wrapped so that returning nothing stops the check."""
    if not isinstance(answer, types.FunctionType):
        return answer

    @functools.wraps(answer)
    def watched(*args: Any, **kwargs: Any) -> Any:
        value = answer(*args, **kwargs)
        if _is_blank(value):
            raise _Untouched(answer.__name__, value is None and not _has_empty_body(answer))
        return value

    return watched


def _has_empty_body(function: types.FunctionType) -> bool:
    """Whether the body has nothing but ``...``, ``pass`` or a docstring."""
    code = function.__code__
    return (
        not code.co_names
        and code.co_nlocals == code.co_argcount + code.co_kwonlyargcount
        and (len(code.co_code) <= len(_empty.__code__.co_code))
    )


def _empty() -> None: ...


def _explain(answer: Any, error: Exception) -> str:
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(answer, types.FunctionType):
        return f"Calling `{answer.__name__}` raised {what}"
    kind = type(answer).__name__
    return f"The check could not use your answer (its type is {kind}): {what}"
