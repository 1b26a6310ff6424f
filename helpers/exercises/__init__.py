"""Exercises that check themselves, and quizzes that explain every answer.

Each lesson has a module with its questions: ``from helpers.exercises.lesson03 import q1``. Every
lesson also uses ``assert_close`` and ``quiz``, which are imported from here.
"""

from helpers.exercises.question import Question, Result, assert_close
from helpers.exercises.quizzes import quiz

__all__ = ["Question", "Result", "assert_close", "quiz"]
