"""Loading models, with transformers as the reference; tiny models where they are enough."""

import json
import logging

import gguf
import pytest
import tiny
import torch
import transformers
from transformers import (
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
)

from helpers import assets, models
from helpers.errors import CourseError, InvalidValue
from helpers.models import loading

TEXTS = ["Hello, world!", "Machine learning is fun."]
NAMES = ["negative", "positive"]


@pytest.fixture(scope="module")
def encoder_folder():
    return assets.fetch("encoder")


@pytest.fixture
def saved(tmp_path):
    """A tiny classifier of three labels and its tokenizer, as ``save_pretrained`` writes them."""
    model = tiny.classifier(dropout=0.1)
    model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_default_model():
    assert (models.default_model("quick"), models.default_model("full")) == ("encoder", "bert-base")
    with pytest.raises(InvalidValue, match=r"unknown profile 'fast'.*full, quick"):
        models.default_model("fast")


# -- the real encoder ------------------------------------------------------------------------------


def test_the_tokenizer_equals_that_of_bert(encoder_folder):
    ours = models.load_tokenizer("encoder")(TEXTS)["input_ids"]
    assert ours == BertTokenizer.from_pretrained(encoder_folder)(TEXTS)["input_ids"]
    assert ours[0][0] == 101 and ours[0][-1] == 102


def test_the_encoder_equals_that_of_transformers(encoder_folder):
    inputs = models.load_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    ours, theirs = models.load_encoder(), BertModel.from_pretrained(encoder_folder).eval()
    assert isinstance(ours, BertModel) and not ours.training
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    with torch.no_grad():
        torch.testing.assert_close(
            ours(**inputs).last_hidden_state, theirs(**inputs).last_hidden_state
        )


def test_eager_attention_returns_its_weights():
    inputs = models.load_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        outputs = models.load_encoder(attention="eager")(**inputs, output_attentions=True)
    assert len(outputs.attentions) == 6 and outputs.attentions[0].shape[:2] == (2, 12)


def test_a_classifier_is_the_pretrained_body_with_a_seeded_head():
    before = torch.random.get_rng_state()
    model = models.load_classifier(labels=NAMES, seed=7)
    assert torch.equal(before, torch.random.get_rng_state())
    assert isinstance(model, BertForSequenceClassification) and not model.training
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert model.config.label2id == {"negative": 0, "positive": 1}
    body = models.load_encoder().state_dict()
    for name, weight in model.bert.state_dict().items():
        assert torch.equal(weight, body[name]), name
    torch.manual_seed(99)
    again, other = (models.load_classifier(labels=NAMES, seed=seed) for seed in (7, 8))
    assert torch.equal(model.classifier.weight, again.classifier.weight)
    assert not torch.allclose(model.classifier.weight, other.classifier.weight)
    assert 0.01 < model.classifier.weight.std() < 0.03  # BERT's initializer_range is 0.02


def test_masked_lm_decodes_with_the_word_embeddings():
    before = torch.random.get_rng_state()
    model = models.load_masked_lm(seed=3)
    assert torch.equal(before, torch.random.get_rng_state()) and not model.training
    embeddings = model.bert.embeddings.word_embeddings.weight
    assert model.cls.predictions.decoder.weight is embeddings
    assert torch.equal(embeddings, models.load_encoder().embeddings.word_embeddings.weight)
    dense = [m.cls.predictions.transform.dense.weight for m in (model, models.load_masked_lm())]
    assert not torch.equal(*dense)


def test_nothing_is_printed_and_settings_are_restored(capfd, caplog):
    transformers.utils.logging.set_verbosity_info()
    transformers.utils.logging.enable_progress_bar()
    try:
        with caplog.at_level(logging.INFO):
            models.load_classifier(labels=NAMES)
            models.load_masked_lm()
        assert capfd.readouterr() == ("", "")
        assert transformers.utils.logging.get_verbosity() == logging.INFO
        assert transformers.utils.logging.is_progress_bar_enabled()
    finally:
        transformers.utils.logging.set_verbosity_warning()


# -- the real causal model -------------------------------------------------------------------------


def test_the_causal_model_has_the_weights_of_the_gguf_file():
    model, tokenizer = models.load_causal_lm(), models.load_tokenizer("causal-lm")
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    file = next(assets.fetch("causal-lm").rglob("*.gguf"))
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for theirs, ours in {
        "token_embd.weight": model.model.embed_tokens.weight,
        "blk.3.ffn_down.weight": model.model.layers[3].mlp.down_proj.weight,
        "output_norm.weight": model.model.norm.weight,
    }.items():
        numbers = gguf.dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
        torch.testing.assert_close(ours.detach(), torch.tensor(numbers), rtol=0, atol=0)
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        assert tokenizer.decode(model(**inputs).logits[0, -1].argmax()).strip() == "Paris"
    assert "system" in tokenizer.chat_template


def test_the_causal_model_is_converted_once(monkeypatch):
    models.load_causal_lm()
    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_config", None)  # would raise if called
    assert models.load_causal_lm().config.num_hidden_layers == 30


# -- small models ----------------------------------------------------------------------------------


def test_dropout_reaches_every_layer(saved):
    model = models.load_classifier(str(saved), labels=["a", "b"], dropout=0.25)
    rates = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.25}
    attention = {m.dropout_prob for m in model.modules() if hasattr(m, "dropout_prob")}
    assert attention <= {0.25}
    assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0.25
    apart = models.load_classifier(
        str(saved), labels=["a", "b"], dropout=0.25, attention_dropout=0.0
    ).config
    assert apart.hidden_dropout_prob == 0.25 and apart.attention_probs_dropout_prob == 0.0
    tagger = models.load_token_classifier(
        str(saved), labels=["O", "B-X"], dropout=0.25, attention_dropout=0.0
    ).config
    assert tagger.hidden_dropout_prob == 0.25 and tagger.attention_probs_dropout_prob == 0.0
    kept = models.load_classifier(str(saved), labels=["a", "b"])
    assert {m.p for m in kept.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}


@pytest.mark.parametrize("labels", [[], ["one"], ["same", "same"]])
def test_labels_that_are_not_classes(labels):
    with pytest.raises(InvalidValue, match="at least two different names"):
        models.load_classifier(labels=labels)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_dropout_out_of_range(dropout):
    for name in ("dropout", "attention_dropout"):
        with pytest.raises(InvalidValue, match=f"^{name} is {dropout}"):
            models.load_classifier(labels=NAMES, **{name: dropout})


def test_unknown_names_are_explained(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "quick")
    with pytest.raises(InvalidValue, match="Did you mean 'encoder'"):
        models.load_encoder("encodr")
    with pytest.raises(InvalidValue, match=r"unknown model 'someone/some-bert'.*full profile"):
        models.load_tokenizer("someone/some-bert")
    with pytest.raises(InvalidValue, match="unknown model 'news'"):
        models.load_tokenizer("news")


def test_a_hub_name_is_passed_on_in_the_full_profile(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "full")
    asked = []
    monkeypatch.setattr(
        loading.AutoTokenizer, "from_pretrained", lambda source, **options: asked.append(source)
    )
    models.load_tokenizer("someone/some-bert")
    assert asked == ["someone/some-bert"]


def test_tiny_gpt_is_seeded_and_has_the_expected_number_of_weights():
    before = torch.random.get_rng_state()
    model = models.tiny_gpt(vocabulary_size=50, positions=16, width=24, layers=2, heads=3, seed=5)
    assert torch.equal(before, torch.random.get_rng_state())
    per_layer = 12 * 24 * 24 + 13 * 24  # weights and biases of attention, MLP and two LayerNorms
    assert models.count_parameters(model) == (50 + 16) * 24 + 2 * per_layer + 2 * 24
    again = models.tiny_gpt(vocabulary_size=50, positions=16, width=24, layers=2, heads=3, seed=5)
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    ids = torch.arange(16)[None]
    with torch.no_grad():
        assert torch.equal(model.train()(ids).logits, model.eval()(ids).logits)  # no dropout
    for parameter in model.transformer.h[0].parameters():
        parameter.requires_grad = False
    assert models.count_parameters(model, trainable_only=True) == (
        models.count_parameters(model) - per_layer
    )


def test_a_saved_model_is_loaded_unchanged(saved):
    model, tokenizer = models.load_trained(saved)
    assert not model.training and tokenizer("w7")["input_ids"] == [2, 7, 3]
    original = BertForSequenceClassification.from_pretrained(saved).eval()
    batch = tiny.encoded(4).batch([0, 1, 2, 3])
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, original(**batch).logits)


def test_save_trained_replaces_all_or_nothing(saved, monkeypatch):
    model, tokenizer = models.load_trained(saved)
    with torch.no_grad():
        model.classifier.bias += 1
    with monkeypatch.context() as patch:
        patch.setattr(type(tokenizer), "save_pretrained", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            models.save_trained(model, tokenizer, saved)
    assert not torch.equal(models.load_trained(saved)[0].classifier.bias, model.classifier.bias)
    models.save_trained(model, tokenizer, saved)
    assert torch.equal(models.load_trained(saved)[0].classifier.bias, model.classifier.bias)
    assert not list(saved.parent.glob(f".{saved.name}-*"))


def test_a_folder_without_a_model_is_explained(saved, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(CourseError, match=r"no trained model: no config.json.*helpers train"):
        models.load_trained(empty)
    with pytest.raises(CourseError, match="no trained model"):
        models.load_trained(empty / "nowhere")
    run = tmp_path_factory.mktemp("run")
    saved.rename(run / "model")
    with pytest.raises(CourseError, match=r"Did you mean .*model"):
        models.load_trained(run)


@pytest.mark.parametrize("damage", ["weights", "config"])
def test_a_damaged_model_is_reported(damage, saved):
    file = saved / ("model.safetensors" if damage == "weights" else "config.json")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CourseError, match="cannot be read"):
        models.load_trained(saved)


def test_labels_of_a_saved_model_survive(saved):
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    config["id2label"] = {"0": "x", "1": "y", "2": "z"}
    config["label2id"] = {"x": 0, "y": 1, "z": 2}
    (saved / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model, _ = models.load_trained(saved)
    assert model.config.id2label == {0: "x", 1: "y", 2: "z"}


def test_a_regressor_has_one_output_and_the_mean_squared_error():
    tokenizer, model = models.load_tokenizer(), models.load_regressor(dropout=0.0)
    inputs = tokenizer(["good", "a bad film"], padding=True, return_tensors="pt")
    ratings = torch.tensor([2.5, -3.0])
    output = model(**inputs, labels=ratings)
    assert output.logits.shape == (2, 1)
    expected = ((output.logits[:, 0] - ratings) ** 2).mean()
    torch.testing.assert_close(output.loss, expected)
    again = models.load_regressor(dropout=0.0)
    assert torch.equal(again.classifier.weight, model.classifier.weight)


def test_heads_for_tokens_and_questions_keep_their_kind(tmp_path):
    tokenizer = models.load_tokenizer()
    for number, model in enumerate(
        (models.load_token_classifier(labels=["O", "B-X"]), models.load_question_answerer())
    ):
        models.save_trained(model, tokenizer, tmp_path / str(number))
        loaded, _ = models.load_trained(tmp_path / str(number))
        assert type(loaded) is type(model)
        weights = loaded.state_dict()
        assert all(torch.equal(weights[n], w) for n, w in model.state_dict().items())
    models.save_trained(models.load_encoder(), tokenizer, tmp_path / "body")
    with pytest.raises(CourseError, match="has none of the heads"):
        models.load_trained(tmp_path / "body")
