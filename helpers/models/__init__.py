"""Pretrained models: load them from the catalogue, adapt them (``lora``), shrink them
(``quantization``), and read Google's BERT checkpoints (``google_bert``)."""

from helpers.models.loading import (
    count_parameters,
    default_model,
    load_causal_lm,
    load_classifier,
    load_encoder,
    load_masked_lm,
    load_question_answerer,
    load_regressor,
    load_token_classifier,
    load_tokenizer,
    load_trained,
    save_trained,
    tiny_gpt,
)

__all__ = [
    "count_parameters",
    "default_model",
    "load_causal_lm",
    "load_classifier",
    "load_encoder",
    "load_masked_lm",
    "load_question_answerer",
    "load_regressor",
    "load_token_classifier",
    "load_tokenizer",
    "load_trained",
    "save_trained",
    "tiny_gpt",
]
