"""The shapes of published models, as transformers configurations made without the network."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from helpers.errors import InvalidValue, unknown_name

HEADS = {  # of each architecture, those that the course fine-tunes
    "bert": ("classifier", "tokens", "questions", "masked-lm"),
    "gpt2": ("causal-lm",),
    "llama": ("causal-lm",),  # SmolLM2 is one
}


_SIZES = {
    "bert": ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    "gpt2": ("n_embd", "n_layer", "n_head"),
    "llama": (
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        *("intermediate_size", "vocab_size", "tie_word_embeddings"),
    ),
}
# The shapes that the models were published with (their config.json).
_PUBLISHED: dict[str, tuple] = {
    "minilm-l6": ("bert", 384, 6, 12, 1536),
    "bert-base": ("bert", 768, 12, 12, 3072),
    "bert-large": ("bert", 1024, 24, 16, 4096),
    "gpt2": ("gpt2", 768, 12, 12),
    "gpt2-medium": ("gpt2", 1024, 24, 16),
    "gpt2-large": ("gpt2", 1280, 36, 20),
    "gpt2-xl": ("gpt2", 1600, 48, 25),
    "smollm2-135m": ("llama", 576, 30, 9, 3, 1536, 49152, True),
    "smollm2-360m": ("llama", 960, 32, 15, 5, 2560, 49152, True),
    "smollm2-1.7b": ("llama", 2048, 24, 32, 32, 8192, 49152, True),
    "llama-2-7b": ("llama", 4096, 32, 32, 32, 11008, 32000, False),
    "llama-2-13b": ("llama", 5120, 40, 40, 40, 13824, 32000, False),
    "llama-2-70b": ("llama", 8192, 80, 64, 8, 28672, 32000, False),
    "llama-3-8b": ("llama", 4096, 32, 32, 8, 14336, 128256, False),
    "llama-3-70b": ("llama", 8192, 80, 64, 8, 28672, 128256, False),
    "llama-3.2-1b": ("llama", 2048, 16, 32, 8, 8192, 128256, True),
    "llama-3.2-3b": ("llama", 3072, 28, 24, 8, 8192, 128256, True),
}
_CATALOGUE = {"encoder": "minilm-l6", "causal-lm": "smollm2-135m"}
MODELS = (*_CATALOGUE, *_PUBLISHED)


def model_config(model: Any) -> Any:
    """The transformers configuration that ``plan`` would take for ``model``: one of MODELS, a
    folder that holds a config.json, or a configuration, returned as it is.

    Raises InvalidValue for an unknown name (and suggests the nearest) and for an architecture that
    the planner does not know.
    """
    if not isinstance(model, str | Path):
        config = model
    elif (name := str(model)) in MODELS:
        return _published(_CATALOGUE.get(name, name))
    elif Path(model).is_dir():
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise InvalidValue(f"{model} holds no config.json that can be read: {error}") from error
    else:
        raise unknown_name("model", name, MODELS)
    family = getattr(config, "model_type", type(config).__name__)
    if family not in HEADS:
        raise InvalidValue(
            f"the planner does not know the architecture {family!r}; it knows {', '.join(HEADS)}."
        )
    return config


@lru_cache
def _published(name: str) -> Any:
    from transformers import BertConfig, GPT2Config, LlamaConfig

    family, *values = _PUBLISHED[name]
    kind = {"bert": BertConfig, "gpt2": GPT2Config, "llama": LlamaConfig}[family]
    return kind(**dict(zip(_SIZES[family], values, strict=True)))
