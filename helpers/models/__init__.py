"""Pretrained models: load them from the catalogue, adapt them (``lora``), shrink them
(``quantization``), and read Google's BERT checkpoints (``google_bert``)."""

from helpers.models.google_bert import load_google_bert, torch_name
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
from helpers.models.lora import add_lora
from helpers.models.quantization import quantize_linear, weight_bytes
from helpers.models.tf_checkpoint import TensorBundle

__all__ = [
    "TensorBundle",
    "add_lora",
    "count_parameters",
    "default_model",
    "load_causal_lm",
    "load_classifier",
    "load_encoder",
    "load_google_bert",
    "load_masked_lm",
    "load_question_answerer",
    "load_regressor",
    "load_token_classifier",
    "load_tokenizer",
    "load_trained",
    "quantize_linear",
    "save_trained",
    "tiny_gpt",
    "torch_name",
    "weight_bytes",
]
