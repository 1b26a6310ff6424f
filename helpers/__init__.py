"""The code behind the course. Import what you need: ``from helpers import corpora, training``.

``import helpers`` alone loads nothing heavy.
"""

__version__ = "0.1.0"
