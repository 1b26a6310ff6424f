"""Exercises that check themselves, and quizzes that explain every option.

A lesson imports its questions from its own module, ``from helpers.exercises.lesson03 import q1``,
and the two tools that every lesson uses from here: ``assert_close`` and ``quiz``.
"""

from helpers.exercises.question import Question, Result, assert_close
from helpers.exercises.quizzes import quiz

__all__ = ["Question", "Result", "assert_close", "quiz"]
