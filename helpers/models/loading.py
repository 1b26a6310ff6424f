"""Load and save models: the catalogue's models as transformers objects, ready for a task.

A name is a model of the catalogue, a folder with a model or, in the full profile, a repository on
the Hugging Face Hub. Weights are loaded in float32, and only from safetensors or GGUF files: a
pickled checkpoint can run any code when it is opened.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from helpers import assets, runtime
from helpers.assets import catalog
from helpers.errors import CourseError, InvalidValue, unknown_name

_DEFAULT = {"quick": "encoder", "full": "bert-base"}
_DROPOUTS = (  # what the configurations of different architectures call their dropout
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)
_HEADS = {
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForQuestionAnswering": AutoModelForQuestionAnswering,
}
_SAFE = {"dtype": torch.float32, "use_safetensors": True}


def default_model(profile: str) -> str:
    """The encoder of a profile: "encoder" for "quick", "bert-base" for "full"."""
    if profile not in _DEFAULT:
        raise unknown_name("profile", profile, _DEFAULT)
    return _DEFAULT[profile]


def load_tokenizer(name: str = "encoder") -> PreTrainedTokenizerBase:
    """The tokenizer of the model ``name``."""
    with _quiet():
        return AutoTokenizer.from_pretrained(_source(name))


def load_encoder(name: str = "encoder", *, attention: str = "sdpa") -> PreTrainedModel:
    """The pretrained body without a head, in eval mode; it returns hidden states (B, T, width).

    attention: "sdpa" (fast) or "eager" (slower, but able to return the attention weights).
    """
    with _quiet():
        model = AutoModel.from_pretrained(_source(name), attn_implementation=attention, **_SAFE)
    return model.eval()


def load_classifier(
    name: str = "encoder",
    *,
    labels: Sequence[str],
    seed: int = 42,
    dropout: float | None = None,
    attention_dropout: float | None = None,
) -> PreTrainedModel:
    """A text classifier in eval mode: the pretrained body with a new head. (A model saved with the
    same number of classes keeps its own head.)

    labels: the names of the classes in the order of their numbers, at least two, all different.
    seed: for the weights of the new head; torch's global generator is left alone.
    dropout: all dropout probabilities, 0 <= dropout < 1; None keeps those of the model.
    attention_dropout: a separate probability for the attention weights; None: same as ``dropout``.
    """
    kind, labels = AutoModelForSequenceClassification, _check_labels(labels)
    return _with_head(kind, name, labels, seed, dropout, attention_dropout)


def load_token_classifier(
    name: str = "encoder",
    *,
    labels: Sequence[str],
    seed: int = 42,
    dropout: float | None = None,
    attention_dropout: float | None = None,
) -> PreTrainedModel:
    """A model in eval mode that classifies each token: logits (B, T, C) from a new head. labels:
    the names of the tags. All else as in ``load_classifier``."""
    kind, labels = AutoModelForTokenClassification, _check_labels(labels)
    return _with_head(kind, name, labels, seed, dropout, attention_dropout)


def load_regressor(
    name: str = "encoder", *, seed: int = 42, dropout: float | None = None
) -> PreTrainedModel:
    """A model in eval mode that predicts one number per text: logits (B, 1) from a new head, and
    the mean squared error as its loss. seed, dropout: as in ``load_classifier``."""
    return _with_head(AutoModelForSequenceClassification, name, ["value"], seed, dropout)


def load_question_answerer(
    name: str = "encoder", *, seed: int = 42, dropout: float | None = None
) -> PreTrainedModel:
    """A model in eval mode that finds answer spans: start and end logits (B, T) from a new head.
    seed, dropout: as in ``load_classifier``."""
    return _with_head(AutoModelForQuestionAnswering, name, None, seed, dropout)


def _check_labels(labels: Sequence[str]) -> list[str]:
    labels = list(labels)
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise InvalidValue(f"labels are {labels}; give at least two different names of classes.")
    return labels


def _with_head(
    kind: Any,
    name: str,
    labels: list[str] | None,
    seed: int,
    dropout: float | None,
    attention_dropout: float | None = None,
) -> PreTrainedModel:
    """The pretrained body with a head of ``kind``, new unless one of that size was saved."""
    for key, value in (("dropout", dropout), ("attention_dropout", attention_dropout)):
        if value is not None and not 0 <= value < 1:
            raise InvalidValue(f"{key} is {value}; it must be at least 0 and below 1.")
    source, names = _source(name), {}
    if labels is not None:
        id2label = dict(enumerate(labels))
        names = {"id2label": id2label, "label2id": {label: i for i, label in id2label.items()}}
    if attention_dropout is None:
        attention_dropout = dropout
    with _quiet(), _seeded(seed):
        config = AutoConfig.from_pretrained(source, **names)
        if labels is not None and len(labels) == 1:
            config.problem_type = "regression"
        set_dropout(config, dropout, attention_dropout)
        return kind.from_pretrained(source, config=config, ignore_mismatched_sizes=True, **_SAFE)


def set_dropout(config: Any, dropout: float | None, attention_dropout: float | None) -> None:
    """Every dropout probability of a configuration, whatever it is called there; None keeps it."""
    for key in _DROPOUTS:
        value = attention_dropout if "att" in key else dropout
        if value is not None and hasattr(config, key):
            setattr(config, key, value)


def load_masked_lm(name: str = "encoder", *, seed: int = 42) -> PreTrainedModel:
    """The pretrained body with a masked-language-model head, in eval mode.

    The encoder of the quick profile was published without such a head: its dense layer and
    normalisation are drawn from ``seed``, its decoder shares the word embeddings, as in BERT, and
    its predictions are worthless until it has been trained.
    """
    with _quiet(), _seeded(seed):
        return AutoModelForMaskedLM.from_pretrained(_source(name), **_SAFE)


def load_causal_lm(name: str = "causal-lm", *, attention: str = "sdpa") -> PreTrainedModel:
    """A causal language model in float32 and eval mode: logits (B, T, V).

    The catalogue's model is a quantised GGUF file. The first call converts it to safetensors in
    the cache (20 to 60 seconds, 0.5 GB); later calls load that in about a second.
    """
    options = {"attn_implementation": attention, **_SAFE}
    with _quiet():
        return AutoModelForCausalLM.from_pretrained(_source(name), **options)


def tiny_gpt(
    *,
    vocabulary_size: int,
    positions: int = 128,
    width: int = 192,
    layers: int = 4,
    heads: int = 4,
    seed: int = 42,
) -> GPT2LMHeadModel:
    """An untrained GPT-2 without dropout; its weights are drawn from ``seed``.

    positions: the most tokens it can read. width: of the hidden states, a multiple of ``heads``.
    """
    config = GPT2Config(
        vocab_size=vocabulary_size,
        n_positions=positions,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    with _quiet(), _seeded(seed):
        model = GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"  # the default of transformers, but it warns if this is unset
    return model


def load_trained(folder: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model (in eval mode) and tokenizer that ``train`` or ``save_pretrained`` wrote.

    config.json decides which kind it is: it classifies texts or tokens, or finds answer spans.
    Raises CourseError if ``folder`` has no model, or a damaged one.
    """
    folder = Path(folder)
    wanted = ("config.json", "model.safetensors", "tokenizer_config.json")
    if missing := [name for name in wanted if not (folder / name).is_file()]:
        step = (
            "Give the folder `model` of a finished run, or train a model: python -m helpers train "
            "news --out runs/news"
        )
        if (folder / "model" / "config.json").is_file():
            step = f"Did you mean {folder / 'model'}?"
        raise CourseError(f"{folder} holds no trained model: no {', '.join(missing)}. {step}")
    try:
        with _quiet():
            (architecture,) = AutoConfig.from_pretrained(folder).architectures
            kinds = [kind for ending, kind in _HEADS.items() if architecture.endswith(ending)]
            if not kinds:
                raise ValueError(f"{architecture} has none of the heads {', '.join(_HEADS)}")
            model = kinds[0].from_pretrained(folder, **_SAFE)
            return model.eval(), AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # safetensors, json and transformers each raise errors of their own
        raise CourseError(
            f"the model in {folder} cannot be read ({type(error).__name__}: {error}). "
            f"Save or train it again."
        ) from error


def save_trained(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path
) -> None:
    """Save both so that ``load_trained``, ``from_pretrained`` and ``pipeline`` can load them. An
    earlier save is replaced only after the new one is complete."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch, _quiet():
        new = Path(scratch) / "new"
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        if folder.exists():  # a folder can't be renamed onto one that has files in it
            folder.replace(Path(scratch) / "earlier")
        new.replace(folder)


def count_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """How many numbers the model's weights hold. Weights that two layers share count once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def _source(name: str) -> str:
    """What to pass to ``from_pretrained`` for ``name``: a folder, or an id on the Hub."""
    known = [key for key, asset in catalog.load_catalog().items() if asset.kind == "model"]
    if name in known:
        folder = assets.fetch(name)
        if gguf := next(folder.rglob("*.gguf"), None):
            return str(assets.derived(f"{name}-safetensors", partial(_convert, gguf)))
        configs = folder.rglob("config.json")
        return str(min(configs, key=lambda path: len(path.parts)).parent)
    if Path(name).is_dir():
        return str(name)
    if "/" in name and runtime.detect().profile == "full":
        return name
    raise InvalidValue(
        f"{unknown_name('model', name, known)} You can also give the folder of a model or, in the "
        f"full profile, owner/name on the Hugging Face Hub."
    )


def _convert(gguf: Path, folder: Path) -> None:
    """Write the safetensors version of a GGUF file, and its tokenizer, into ``folder``."""
    source, name = gguf.parent, gguf.name
    with _quiet(), _seeded(0), redirect_stderr(io.StringIO()):  # it has a progress bar of its own
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
        quantised = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=name, dtype=torch.float32
        )
        # transformers refuses to save a model that was loaded from a quantised file, so its
        # weights are copied into a new one.
        config = quantised.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(quantised.state_dict())
        model.generation_config = quantised.generation_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loading reports and progress bars of transformers, then restore its settings."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Make the weights drawn inside depend only on ``seed``; restore torch's generator after."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
