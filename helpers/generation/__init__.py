"""Texts from a causal language model: decoding, chat, and the pairs to instruct it with."""
