"""Google's own BERT checkpoints (github.com/google-research/bert), as transformers models.

A folder as Google publishes it, such as uncased_L-12_H-768_A-12, holds ``bert_config.json``,
``vocab.txt`` and the TensorFlow files ``bert_model.ckpt.index`` and
``bert_model.ckpt.data-00000-of-00001``. TensorFlow is not needed to read them.
"""

import re
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForPreTraining, BertModel, BertTokenizer

from helpers.errors import CourseError, InvalidValue, unknown_name
from helpers.models.tf_checkpoint import TensorBundle

# Google's "gelu" has meant two functions, which transformers calls by these names.
GELU = {"tanh": "gelu_pytorch_tanh", "erf": "gelu"}
# Variables of the training run, and the task heads of run_classifier.py and run_squad.py.
_LEFT_OUT = re.compile(
    r"(.*/)?(adam|lamb)_[mv]$|global_step$|output_(weights|bias)$|cls/squad/output_(weights|bias)$"
)
_LAST = {"kernel": "weight", "gamma": "weight", "beta": "bias", "weights": "weight"}


def load_google_bert(
    folder: str | Path, *, checkpoint: str | None = None, heads: bool = False, gelu: str = "tanh"
) -> tuple[BertModel | BertForPreTraining, BertTokenizer]:
    """The model (float32, eval mode) and the tokenizer of a folder in Google's format. Texts become
    lower case if the vocabulary has no capital letter outside the special tokens.

    checkpoint: the TensorFlow files' name without extension; None: ``bert_model.ckpt``, or the
        only one there is.
    heads: with the two heads of pre-training (``BertForPreTraining``) instead of the body alone.
    gelu: what "gelu" in bert_config.json means. "tanh": the approximation that Google's repository
        uses now. "erf": the exact function, which it used in 2018 and which transformers uses.
    Raises CourseError: a file that is missing, cut off or damaged, names or shapes that do not
    match the configuration; InvalidValue: an unknown ``gelu``.
    """
    folder = Path(folder)
    config = google_config(folder / "bert_config.json", gelu=gelu)
    tokenizer = _tokenizer(folder / "vocab.txt", config)
    bundle = TensorBundle(_prefix(folder, checkpoint))
    with torch.random.fork_rng(devices=[]):  # leaves the caller's random state alone
        model = (BertForPreTraining if heads else BertModel)(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    state = {}
    for name, (source, transposed) in _sources(bundle, shapes, heads).items():
        array = bundle.read(source).astype(np.float32)
        state[name] = torch.from_numpy(array.T if transposed else array)
    model.load_state_dict(state, strict=False)
    return model.eval(), tokenizer


def google_config(path: str | Path, *, gelu: str = "tanh") -> BertConfig:
    """The BertConfig for a bert_config.json; ``gelu`` as in ``load_google_bert``."""
    if gelu not in GELU:
        raise unknown_name("gelu", gelu, GELU)
    try:
        config = BertConfig.from_json_file(path)
    except OSError as error:
        raise CourseError(
            f"{path} cannot be read ({error.strerror}). A folder in Google's format holds "
            "bert_config.json, vocab.txt and bert_model.ckpt.*; unpack the whole archive."
        ) from None
    except Exception as error:  # json, transformers and its checks of types raise their own kinds
        reason = " ".join(str(error).split())
        raise CourseError(f"{path} is not a BERT configuration in JSON ({reason}).") from None
    if config.hidden_act == "gelu":
        config.hidden_act = GELU[gelu]
    return config


def torch_name(name: str) -> tuple[str, bool] | None:
    """The transformers name for Google's tensor ``name``, and whether to transpose the tensor;
    None for what isn't part of a model (``adam_m``, ``global_step`` ...).

    TensorFlow's kernels are (in, out) and multiplied from the right, PyTorch's weights (out, in).
    """
    if _LEFT_OUT.match(name):
        return None
    name = re.sub(r"\blayer_(\d+)\b", r"layer/\1", name)
    name = name.replace("predictions/output_bias", "predictions/bias")
    *path, last = name.split("/")
    last = last.removeprefix("output_")
    if last.endswith("_embeddings"):
        path, last = [*path, last], "weight"
    return ".".join([*path, _LAST.get(last, last)]), last == "kernel"


def _sources(
    bundle: TensorBundle, shapes: dict[str, tuple[int, ...]], heads: bool
) -> dict[str, tuple[str, bool]]:
    """For each of the model's weights the tensor that holds it, and whether it is transposed."""
    found: dict[str, tuple[str, bool]] = {}
    for name, entry in bundle.entries.items():
        translated = torch_name(name)
        if translated is None or (not heads and name.startswith("cls/")):
            continue
        target, transposed = translated
        target = target if heads else target.removeprefix("bert.")
        if target not in shapes:
            raise CourseError(
                f"tensor {name} of {bundle.prefix} belongs to no part of the model that "
                f"bert_config.json describes ({len(shapes)} weights). Is that the configuration of "
                "another model, or is this checkpoint not a BERT, or one of tf.train.Checkpoint?"
            )
        expected = shapes[target][::-1] if transposed else shapes[target]
        if entry.shape != expected:
            raise CourseError(
                f"tensor {name} has shape {entry.shape}; by bert_config.json it should have "
                f"{expected}. Is the configuration that of another model?"
            )
        found[target] = (name, transposed)
    if missing := [name for name in shapes if name not in found]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        head = " Load it with heads=False." if all(m.startswith("cls.") for m in missing) else ""
        raise CourseError(
            f"{bundle.prefix} has no weights for {', '.join(missing[:3])}{more} (named as in "
            f"transformers). Does bert_config.json belong to another model?{head}"
        )
    return found


def _prefix(folder: Path, checkpoint: str | None) -> Path:
    if checkpoint is not None:
        return folder / checkpoint
    names = sorted(path.name.removesuffix(".index") for path in folder.glob("*.index"))
    if len(names) > 1 and "bert_model.ckpt" not in names:
        raise InvalidValue(
            f"{folder} holds {len(names)} checkpoints: {', '.join(names)}. Name one: "
            f"checkpoint={names[-1]!r}."
        )
    return folder / (names[0] if len(names) == 1 else "bert_model.ckpt")


def _tokenizer(path: Path, config: BertConfig) -> BertTokenizer:
    try:
        tokens = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(f"{path} cannot be read ({error}).") from None
    if len(tokens) != config.vocab_size:
        raise CourseError(
            f"{path} has {len(tokens)} tokens, bert_config.json says {config.vocab_size}. They "
            "belong to different models, or the vocabulary is cut off."
        )
    lower_case = not any(token != token.lower() for token in tokens if token[:1] != "[")
    return BertTokenizer.from_pretrained(
        path.parent, do_lower_case=lower_case, model_max_length=config.max_position_embeddings
    )
