"""Google's checkpoint format, against what TensorFlow wrote, read and computed itself
(tests/google_bert/write_checkpoint.py)."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForPreTraining, BertModel

from helpers.assets.catalog import data_folder
from helpers.errors import CourseError, InvalidValue
from helpers.models.google_bert import google_config, load_google_bert, torch_name
from helpers.models.tf_checkpoint import TensorBundle

HERE = Path(__file__).parent / "google_bert"
GOOGLE = data_folder() / "google_bert"
DATA, INDEX = "bert_model.ckpt.data-00000-of-00001", "bert_model.ckpt.index"


@pytest.fixture(scope="module")
def expected():
    with np.load(GOOGLE / "expected.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture
def inputs(expected):
    names = {
        "input_ids": "input_ids",
        "attention_mask": "input_mask",
        "token_type_ids": "segment_ids",
    }
    return {ours: torch.from_numpy(expected[name]).long() for ours, name in names.items()}


@pytest.fixture
def folder(tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(GOOGLE, tmp_path / "google_bert"))


def change_config(folder, **settings):
    path = folder / "bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def flip(path, place):
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(bytes(raw))


# The format.


@pytest.mark.parametrize(
    ("prefix", "listing", "count"),
    [
        (GOOGLE / "bert_model.ckpt", "bert_tensors.json", 139),
        (HERE / "two_shards" / "model.ckpt", "two_shards_tensors.json", 5),
    ],
)
def test_every_tensor_is_read_bit_for_bit_as_tensorflow_reads_it(prefix, listing, count):
    bundle = TensorBundle(prefix)
    wanted = json.loads((HERE / listing).read_text(encoding="utf-8"))
    assert list(bundle.entries) == sorted(wanted) and len(wanted) == count
    for name, (dtype, shape, digest) in wanted.items():
        array = bundle.read(name)
        assert (str(array.dtype), list(array.shape)) == (dtype, shape)
        assert hashlib.sha256(array.tobytes()).hexdigest() == digest, name


def test_two_shards_by_value():
    bundle = TensorBundle(HERE / "two_shards" / "model.ckpt")
    assert bundle.shards == 2 and {entry.shard for entry in bundle.entries.values()} == {0, 1}
    array = bundle.read("a/float")
    assert array.tolist() == [[1, 2], [3, 4]] and array.flags.writeable
    assert bundle.read("b/long") == 7 and bundle.read("b/empty").shape == (0, 3)


def test_a_single_bit_changed_anywhere_in_the_data_is_noticed(folder):
    bundle = TensorBundle(folder / "bert_model.ckpt")
    name = "bert/encoder/layer_1/output/dense/kernel"
    entry = bundle.entries[name]
    for place in (entry.offset, entry.offset + entry.size // 2, entry.offset + entry.size - 1):
        flip(folder / DATA, place)
        with pytest.raises(CourseError, match=rf"{name}.*does not match its checksum"):
            bundle.read(name)
        flip(folder / DATA, place)
    bundle.read(name)


def test_any_byte_changed_in_the_index_is_noticed(folder):
    good = (folder / INDEX).read_bytes()
    for place in range(0, len(good), 97):
        (folder / INDEX).write_bytes(good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :])
        try:
            found = TensorBundle(folder / "bert_model.ckpt").entries
        except CourseError as error:
            assert "Fetch or copy the file again" in str(error)
        else:  # padding of the last 48 bytes, and the block that says nothing
            assert place > len(good) - 70
            assert found == TensorBundle(GOOGLE / "bert_model.ckpt").entries


@pytest.mark.parametrize("kept", [0, 10, 47, 48, 300, 4600, 4678])
def test_an_index_that_was_cut_off_is_no_checkpoint(folder, kept):
    (folder / INDEX).write_bytes((folder / INDEX).read_bytes()[:kept])
    with pytest.raises(CourseError, match="not a TensorFlow checkpoint index, or it is damaged"):
        TensorBundle(folder / "bert_model.ckpt")


def test_other_files_are_no_checkpoint(folder):
    for content in (b"PK\x03\x04" * 50, b"\x80\x04\x95pickle" * 20, b"<html>" + b" " * 99):
        (folder / INDEX).write_bytes(content)
        with pytest.raises(CourseError, match="not a TensorFlow checkpoint index"):
            TensorBundle(folder / "bert_model.ckpt")


def test_unknown_tensors_are_named():
    bundle = TensorBundle(GOOGLE / "bert_model.ckpt")
    with pytest.raises(InvalidValue, match="Did you mean 'bert/pooler/dense/kernel'"):
        bundle.read("bert/pooler/dense/kernal")


# The model.


@pytest.mark.parametrize(("gelu", "ending"), [("tanh", ""), ("erf", "_erf")])
def test_outputs_equal_tensorflows(expected, inputs, gelu, ending):
    model, _ = load_google_bert(GOOGLE, gelu=gelu)
    assert type(model) is BertModel and not model.training
    with torch.no_grad():
        found = model(**inputs)
    other = "" if ending else "_erf"
    for name, tensor in (
        ("sequence_output", found.last_hidden_state),
        ("pooled_output", found.pooler_output),
    ):
        np.testing.assert_allclose(tensor.numpy(), expected[name + ending], atol=1e-5, rtol=0)
        # The other gelu is a hundred times as far away: the tolerance tells them apart.
        assert np.abs(tensor.numpy() - expected[name + other]).max() > 5e-4


def test_the_heads_of_pretraining_equal_tensorflows(expected, inputs):
    model, _ = load_google_bert(GOOGLE, heads=True)
    assert type(model) is BertForPreTraining
    with torch.no_grad():
        found = model(**inputs)
    np.testing.assert_allclose(
        found.prediction_logits.numpy(), expected["masked_lm_logits"], atol=3e-5, rtol=0
    )
    np.testing.assert_allclose(
        found.seq_relationship_logits.numpy(), expected["next_sentence_logits"], atol=1e-5, rtol=0
    )


def test_every_weight_comes_from_the_file():
    """No weight is left as it was drawn: two loads agree, whatever the random state."""
    bundle = TensorBundle(GOOGLE / "bert_model.ckpt")
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    model, _ = load_google_bert(GOOGLE, heads=True)
    assert torch.equal(state, torch.random.get_rng_state())
    held = {name: p.detach().numpy() for name, p in model.named_parameters()}
    names = {torch_name(name)[0]: name for name in bundle.entries if torch_name(name)}
    assert sorted(names) == sorted(held)
    for ours, theirs in names.items():
        array = bundle.read(theirs)
        assert np.array_equal(held[ours], array.T if torch_name(theirs)[1] else array), ours


def test_the_tokenizer_gives_the_ids_that_tensorflow_was_given(expected):
    _, tokenizer = load_google_bert(GOOGLE)
    first = ["The story is good, and very funny.", "I made a bank deposit."]
    found = tokenizer(first, ["We love it!", "The river bank was old."])
    single = tokenizer("Not bad?")
    rows = zip(
        [*found["input_ids"], single["input_ids"]],
        [*found["token_type_ids"], single["token_type_ids"]],
        strict=True,
    )
    for number, (ids, types) in enumerate(rows):
        length = expected["input_mask"][number].sum()
        assert ids == expected["input_ids"][number, :length].tolist()
        assert types == expected["segment_ids"][number, :length].tolist()
    assert tokenizer.model_max_length == 32


def test_capitals_are_kept_if_the_vocabulary_has_any(folder):
    path = folder / "vocab.txt"
    assert "[UNK]" not in load_google_bert(folder)[1].tokenize("The film")
    path.write_text(path.read_text().replace("[unused9]", "The"))
    assert load_google_bert(folder)[1].tokenize("The film") == ["The", "film"]


def test_it_saves_and_loads_as_any_transformers_model(tmp_path, inputs):
    model, tokenizer = load_google_bert(GOOGLE)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = BertModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(model(**inputs)[0], again(**inputs)[0])


def google_names(layers):
    """All variables of google-research/bert's modeling.py and run_pretraining.py."""
    norm, dense = ["LayerNorm/beta", "LayerNorm/gamma"], ["dense/bias", "dense/kernel"]
    parts = [
        f"attention/self/{x}/{y}" for x in ("query", "key", "value") for y in ("bias", "kernel")
    ]
    parts += [f"attention/output/{x}" for x in norm + dense]
    parts += [f"intermediate/{x}" for x in dense] + [f"output/{x}" for x in norm + dense]
    tables = ["word_embeddings", "position_embeddings", "token_type_embeddings"]
    names = [f"bert/embeddings/{x}" for x in tables + norm]
    names += [f"bert/encoder/layer_{n}/{x}" for n in range(layers) for x in parts]
    names += [f"bert/pooler/{x}" for x in dense]
    names += [f"cls/predictions/transform/{x}" for x in norm + dense]
    outputs = ["cls/predictions/output_bias"]
    return names + outputs + [f"cls/seq_relationship/output_{x}" for x in ("weights", "bias")]


@pytest.mark.parametrize(("layers", "hidden", "heads"), [(12, 768, 12), (24, 1024, 16)])
def test_the_names_of_googles_published_models_are_all_known(layers, hidden, heads):
    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
    )
    with torch.device("meta"):
        model = BertForPreTraining(config)
    names = google_names(layers)
    assert len(names) == len(set(names)) == 5 + 16 * layers + 2 + 7
    translated = {torch_name(name)[0] for name in names}
    own = {name for name in model.state_dict() if ".decoder." not in name}  # tied to others
    assert translated == own


def test_what_belongs_to_the_training_run_is_left_out():
    for name in (
        "global_step", "bert/pooler/dense/kernel/adam_m", "bert/pooler/dense/bias/adam_v",
        "output_weights", "output_bias", "cls/squad/output_weights", "cls/squad/output_bias",
    ):  # fmt: skip
        assert torch_name(name) is None
    assert torch_name("cls/predictions/output_bias") == ("cls.predictions.bias", False)
    assert torch_name("cls/seq_relationship/output_weights") == (
        "cls.seq_relationship.weight",
        False,
    )


# What can be wrong with a folder.


def test_a_missing_data_file_is_named(folder):
    (folder / DATA).unlink()
    with pytest.raises(CourseError, match=rf"{DATA} cannot be read.*1 data file"):
        load_google_bert(folder)


@pytest.mark.parametrize("kept", [0, 100, 100_000])
def test_a_data_file_that_was_cut_off_is_named(folder, kept):
    (folder / DATA).write_bytes((folder / DATA).read_bytes()[:kept])
    with pytest.raises(CourseError, match=rf"{DATA} is too short: tensor bert/.*at {kept}\."):
        load_google_bert(folder)


def test_damaged_data_is_named(folder):
    entry = TensorBundle(folder / "bert_model.ckpt").entries["bert/pooler/dense/kernel"]
    flip(folder / DATA, entry.offset + 5)
    with pytest.raises(CourseError, match=r"bert/pooler/dense/kernel.*checksum.*damaged"):
        load_google_bert(folder)


def test_one_missing_shard_of_two(tmp_path):
    shards = Path(shutil.copytree(HERE / "two_shards", tmp_path / "shards"))
    (shards / "model.ckpt.data-00001-of-00002").unlink()
    bundle = TensorBundle(shards / "model.ckpt")
    bundle.read("a/float")
    with pytest.raises(CourseError, match=r"model.ckpt.data-00001-of-00002 cannot be read"):
        bundle.read("b/long")


@pytest.mark.parametrize("missing", ["bert_config.json", "vocab.txt", INDEX])
def test_a_missing_file_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(CourseError, match=missing):
        load_google_bert(folder)


def test_a_checkpoint_of_another_name(folder):
    for path in folder.glob("bert_model.ckpt.*"):
        path.rename(folder / path.name.replace("bert_model.ckpt", "model.ckpt-1000"))
    load_google_bert(folder)
    load_google_bert(folder, checkpoint="model.ckpt-1000")
    with pytest.raises(CourseError, match=r"there is no checkpoint .*bert_model.ckpt"):
        load_google_bert(folder, checkpoint="bert_model.ckpt")
    shutil.copy(folder / "model.ckpt-1000.index", folder / "model.ckpt-2000.index")
    with pytest.raises(
        InvalidValue, match=r"holds 2 checkpoints: model.ckpt-1000, model.ckpt-2000"
    ):
        load_google_bert(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"intermediate_size": 96}, r"intermediate/dense/bias has shape \(48,\).*\(96,\)"),
        ({"max_position_embeddings": 64}, r"position_embeddings has shape \(32, 24\).*\(64, 24\)"),
        ({"num_hidden_layers": 3}, r"no weights for encoder.layer.2.* and 13 more"),
        ({"num_hidden_layers": 1}, r"layer_1.* belongs to no part"),
        ({"vocab_size": 127}, r"vocab.txt has 128 tokens, bert_config.json says 127"),
        ({"hidden_size": "24"}, "not a BERT configuration.*hidden_size.*'24'"),
        ({"vocab_size": None}, "not a BERT configuration.*vocab_size.*None"),
    ],
)
def test_a_configuration_of_another_model(folder, settings, message):
    change_config(folder, **settings)
    with pytest.raises(CourseError, match=message):
        load_google_bert(folder)


def test_a_configuration_that_is_none(folder):
    for content in ("{", "[1]", ""):
        (folder / "bert_config.json").write_text(content)
        with pytest.raises(CourseError, match="not a BERT configuration in JSON"):
            load_google_bert(folder)


def test_tensors_that_are_no_bert(folder):
    for path in folder.glob("bert_model.ckpt.*"):
        path.unlink()
    for path in (HERE / "two_shards").iterdir():
        shutil.copy(path, folder)
    with pytest.raises(CourseError, match=r"tensor a/float .* belongs to no part of the model"):
        load_google_bert(folder)


def test_the_meaning_of_gelu():
    path = GOOGLE / "bert_config.json"
    assert google_config(path).hidden_act == "gelu_pytorch_tanh"
    assert google_config(path, gelu="erf").hidden_act == "gelu"
    with pytest.raises(InvalidValue, match="unknown gelu 'exact'"):
        google_config(path, gelu="exact")


def test_an_activation_that_is_no_gelu_is_kept(folder):
    change_config(folder, hidden_act="relu")
    assert google_config(folder / "bert_config.json").hidden_act == "relu"
