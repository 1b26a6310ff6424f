"""Text from causal language models.

``decoding`` writes text token by token; ``chat`` continues texts and holds conversations;
``instructions`` trains a model to follow instructions; ``diversity`` measures repetition.
"""

from helpers.generation.chat import Chat, continue_text
from helpers.generation.decoding import generate
from helpers.generation.instructions import answer, encode_instructions, load_instructions

__all__ = [
    "Chat",
    "answer",
    "continue_text",
    "encode_instructions",
    "generate",
    "load_instructions",
]
