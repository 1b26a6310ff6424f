"""Text from causal language models.

``decoding`` writes text token by token; ``chat`` continues texts and holds conversations;
``instructions`` trains a model to follow instructions; ``diversity`` measures repetition.
"""
