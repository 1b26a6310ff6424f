"""Writes data/google_bert: a small BERT checkpoint in Google's format, by TensorFlow itself, and
what TensorFlow computes with it (expected.npz); beside this script, a checkpoint in two shards
and lists of all tensors as TensorFlow's own reader finds them.

Not run by the tests; only this script needs TensorFlow (2.21 was used):

    pip install tensorflow
    python tests/google_bert/write_checkpoint.py

The forward pass follows google-research/bert (modeling.py, run_pretraining.py) operation by
operation and has its variable names. The weights are random and larger than a fresh BERT's, and
no bias is 0 and no gain 1, so that a lost, swapped or untransposed tensor shows in the outputs.
Beside every weight stand the moments of Google's optimiser, as in a checkpoint of a training run.
"""

import hashlib
import json
import math
import string
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "data" / "google_bert"
SHARDS = HERE / "two_shards"
CONFIG = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 24,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
    "vocab_size": 128,
}
WORDS = """the a of in and is was film story bank made deposit it good bad not very we love the
funny river price rise ##s ##ed ##ing ##ly ##er ##ness market win game team music phone new old
minister vote song star"""
PAIRS = [
    ("The story is good, and very funny.", "We love it!"),
    ("I made a bank deposit.", "The river bank was old."),
    ("Not bad?", None),
]


def vocabulary() -> list[str]:
    tokens = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += [*".,!?'-", *string.ascii_lowercase]
    tokens += [f"##{letter}" for letter in string.ascii_lowercase]
    tokens += list(dict.fromkeys(WORDS.split()))
    tokens = list(dict.fromkeys(tokens))
    return tokens + [f"[unused{n}]" for n in range(2, 2 + CONFIG["vocab_size"] - len(tokens))]


def pieces(text: str, known: set[str]) -> list[str]:
    """WordPiece: lower case, punctuation apart, then the longest known piece from the left."""
    for mark in ".,!?'-":
        text = text.replace(mark, f" {mark} ")
    found = []
    for word in text.lower().split():
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next(end for end in ends if prefix + word[start:end] in known)
            found.append(prefix + word[start:end])
            start = end
    return found


def features(vocab: list[str], length: int) -> dict[str, np.ndarray]:
    """input_ids, input_mask and segment_ids, each (pairs, length) int32."""
    rows = {"input_ids": [], "input_mask": [], "segment_ids": []}
    for first, second in PAIRS:
        tokens = ["[CLS]", *pieces(first, set(vocab)), "[SEP]"]
        segments = [0] * len(tokens)
        if second:
            more = [*pieces(second, set(vocab)), "[SEP]"]
            tokens, segments = tokens + more, segments + [1] * len(more)
        padding = [0] * (length - len(tokens))
        rows["input_ids"].append([vocab.index(token) for token in tokens] + padding)
        rows["input_mask"].append([1] * len(tokens) + padding)
        rows["segment_ids"].append(segments + padding)
    return {name: np.array(values, dtype=np.int32) for name, values in rows.items()}


def gelu_tanh(x):
    """As in google-research/bert today."""
    return x * 0.5 * (1.0 + tf.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * tf.pow(x, 3))))


def gelu_erf(x):
    """As in google-research/bert in 2018."""
    return x * 0.5 * (1.0 + tf.math.erf(x / tf.sqrt(2.0)))


def variable(name, shape, mean=0.0, scale=0.3):
    initializer = v1.random_normal_initializer(mean, scale)
    return v1.get_variable(name, shape, initializer=initializer)


def dense(x, width, name=None):
    with v1.variable_scope(name or "dense"):
        kernel = variable("kernel", [x.shape[-1], width])
        return tf.matmul(x, kernel) + variable("bias", [width])


def layer_norm(x):
    """tf.contrib.layers.layer_norm over the last axis: epsilon is 1e-12."""
    with v1.variable_scope("LayerNorm"):
        gamma, beta = variable("gamma", [x.shape[-1]], 1.0), variable("beta", [x.shape[-1]])
    mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-12)


def embeddings(inputs, width):
    ids = inputs["input_ids"]
    table = variable("word_embeddings", [CONFIG["vocab_size"], width])
    types = variable("token_type_embeddings", [CONFIG["type_vocab_size"], width])
    places = variable("position_embeddings", [CONFIG["max_position_embeddings"], width])
    x = tf.gather(table, ids) + tf.gather(types, inputs["segment_ids"]) + places[: ids.shape[1]]
    return layer_norm(x), table


def heads(x):
    """(B, T, H) -> (B, heads, T, size a head)"""
    count = CONFIG["num_attention_heads"]
    split = tf.reshape(x, [x.shape[0], x.shape[1], count, x.shape[2] // count])
    return tf.transpose(split, [0, 2, 1, 3])


def attention(x, mask):
    width = x.shape[-1]
    with v1.variable_scope("self"):
        query, key, value = (heads(dense(x, width, name)) for name in ("query", "key", "value"))
        scores = tf.matmul(query, key, transpose_b=True)
        scores *= 1.0 / math.sqrt(width // CONFIG["num_attention_heads"])
        scores += (1.0 - tf.cast(mask[:, None, None, :], tf.float32)) * -10000.0
        context = tf.transpose(tf.matmul(tf.nn.softmax(scores), value), [0, 2, 1, 3])
    with v1.variable_scope("output"):
        return layer_norm(dense(tf.reshape(context, x.shape), width) + x)


def bert(inputs, gelu) -> dict[str, tf.Tensor]:
    width = CONFIG["hidden_size"]
    with v1.variable_scope("bert"):
        with v1.variable_scope("embeddings"):
            x, table = embeddings(inputs, width)
        for number in range(CONFIG["num_hidden_layers"]):
            with v1.variable_scope(f"encoder/layer_{number}"):
                with v1.variable_scope("attention"):
                    x = attention(x, inputs["input_mask"])
                with v1.variable_scope("intermediate"):
                    inner = gelu(dense(x, CONFIG["intermediate_size"]))
                with v1.variable_scope("output"):
                    x = layer_norm(dense(inner, width) + x)
        with v1.variable_scope("pooler"):
            pooled = tf.tanh(dense(x[:, 0], width))
    with v1.variable_scope("cls/predictions"):
        with v1.variable_scope("transform"):
            transformed = layer_norm(gelu(dense(x, width)))
        bias = variable("output_bias", [CONFIG["vocab_size"]])
        words = tf.matmul(transformed, table, transpose_b=True) + bias
    with v1.variable_scope("cls/seq_relationship"):
        weights = variable("output_weights", [2, width])
        follows = tf.matmul(pooled, weights, transpose_b=True) + variable("output_bias", [2])
    return {
        "sequence_output": x,
        "pooled_output": pooled,
        "masked_lm_logits": words,
        "next_sentence_logits": follows,
    }


def write() -> None:
    v1.set_random_seed(17)
    vocab = vocabulary()
    inputs = features(vocab, length=24)
    constants = {name: tf.constant(values) for name, values in inputs.items()}
    tanh = bert(constants, gelu_tanh)
    with v1.variable_scope("", reuse=True):
        erf = bert(constants, gelu_erf)
    for weight in v1.trainable_variables():
        for moment in ("adam_m", "adam_v"):
            variable(f"{weight.op.name}/{moment}", weight.shape)
    v1.get_variable("global_step", initializer=tf.constant(1000, tf.int64))
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "bert_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    (FOLDER / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(v1.global_variables())
        saver.save(
            session, str(FOLDER / "bert_model.ckpt"), write_meta_graph=False, write_state=False
        )
        computed = session.run({"tanh": tanh, "erf": erf})
    outputs = computed["tanh"] | {
        f"{name}_erf": computed["erf"][name] for name in ("sequence_output", "pooled_output")
    }
    np.savez_compressed(FOLDER / "expected.npz", **inputs, **outputs)


def list_tensors(prefix: Path, name: str) -> None:
    """Write what TensorFlow's own reader finds in a checkpoint: type, shape and hash of each."""
    reader, lines = tf.train.load_checkpoint(str(prefix)), []
    for key in sorted(reader.get_variable_to_shape_map()):
        array = np.asarray(reader.get_tensor(key))
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        lines.append(f'"{key}": {json.dumps([str(array.dtype), list(array.shape), digest])}')
    (HERE / name).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def write_two_shards() -> None:
    """Tensors of several types, an empty one among them, in two data files."""
    parts = [
        {"a/float": np.float32([[1, 2], [3, 4]]), "a/half": np.float16([0.5, -2])},
        {"b/long": np.int64(7), "b/empty": np.zeros((0, 3), "f4"), "b/flag": np.array([True])},
    ]
    with tempfile.TemporaryDirectory() as scratch:
        prefixes = [f"{scratch}/part-{number}" for number in range(len(parts))]
        for prefix, tensors in zip(prefixes, parts, strict=True):
            tf.raw_ops.SaveV2(
                prefix=prefix,
                tensor_names=list(tensors),
                shape_and_slices=[""] * len(tensors),
                tensors=list(tensors.values()),
            )
        SHARDS.mkdir(parents=True, exist_ok=True)
        tf.raw_ops.MergeV2Checkpoints(
            checkpoint_prefixes=prefixes, destination_prefix=str(SHARDS / "model.ckpt")
        )


if __name__ == "__main__":
    with tf.Graph().as_default():
        write()
    write_two_shards()
    list_tensors(FOLDER / "bert_model.ckpt", "bert_tensors.json")
    list_tensors(SHARDS / "model.ckpt", "two_shards_tensors.json")
