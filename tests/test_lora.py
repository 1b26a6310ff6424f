"""LoRA compared with direct calls of peft and the formula by hand; interrupted training."""

import numpy as np
import peft
import pytest
import torch
from tiny import blocks, causal_model, classifier, encoded
from tiny import one_thread as one_thread
from transformers import LlamaConfig, LlamaForCausalLM

from helpers import models, training
from helpers.errors import InvalidValue
from helpers.models import lora
from helpers.training import checkpoints

DATA = encoded()


def llama(seed: int = 0):
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=60,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=24,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).eval()


def with_random_b(model, seed: int = 1):
    """With random B, because its zeros would hide a wrong formula."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3, generator=generator)
    return model


def config(**settings):
    defaults = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "progress": False}
    return training.TrainingConfig(**(defaults | {"device": "cpu"} | settings))


def test_equals_a_model_made_with_peft():
    ours = with_random_b(lora.add_lora(classifier(), rank=4, alpha=6, seed=7))
    options = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["query", "value"], modules_to_save=["classifier"]
    )
    plain = classifier()
    torch.manual_seed(7)
    theirs = with_random_b(peft.get_peft_model(plain, options).eval())
    batch = DATA.batch(range(8))
    mine, expected = ours(**batch), theirs(**batch)
    torch.testing.assert_close(mine.logits, expected.logits, rtol=0, atol=0)
    mine.loss.backward()
    expected.loss.backward()
    slopes = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    assert slopes.keys() == {n for n, p in ours.named_parameters() if p.grad is not None}
    assert slopes.keys() == {n for n, p in ours.named_parameters() if p.requires_grad}
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, slopes[name])


@pytest.mark.parametrize("make", [classifier, llama, causal_model])
def test_merged_weights_are_the_formula_and_give_the_same_outputs(make):
    plain = make()
    adapted = with_random_b(lora.add_lora(make(), rank=3, alpha=5))
    parts = {
        name: (layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach())
        for name, layer in adapted.base_model.model.named_modules()
        if hasattr(layer, "lora_A")
    }
    batch = blocks().batch(range(4)) if make is not classifier else DATA.batch(range(4))
    with torch.no_grad():
        before, expected = plain(**batch).logits, adapted(**batch).logits
        merged = lora.merge(adapted)
        torch.testing.assert_close(merged(**batch).logits, expected, rtol=1e-5, atol=1e-5)
    assert (before - expected).abs().max() > 1e-3
    assert type(merged) is type(plain) and merged.state_dict().keys() == plain.state_dict().keys()
    assert all(p.requires_grad for p in merged.parameters())
    for name, weight in plain.state_dict().items():
        place = name.removesuffix(".weight")
        if place in parts:
            a, b = parts[place]
            change = 5 / 3 * b @ a
            weight = weight + (change.T if make is causal_model else change)
        torch.testing.assert_close(merged.state_dict()[name], weight)


@pytest.mark.parametrize(
    ("make", "targets"), [(classifier, {"query", "value"}), (llama, {"q_proj", "v_proj"})]
)
def test_default_targets_and_the_number_of_trained_weights(make, targets):
    adapted = lora.add_lora(make(), rank=2)
    wrapped = [n for n, m in adapted.base_model.model.named_modules() if hasattr(m, "lora_A")]
    assert {name.rpartition(".")[2] for name in wrapped} == targets and len(wrapped) == 4
    shapes = [m.weight.shape for n, m in make().named_modules() if n in wrapped]
    head = 3 * 32 + 3 if make is classifier else 0
    count = models.count_parameters(adapted, trainable_only=True)
    assert count == sum(2 * (rows + columns) for rows, columns in shapes) + head
    expected = {"rank": 2, "alpha": 4, "targets": sorted(targets), "dropout": 0.0}
    assert lora.settings(adapted) == expected


def test_a_new_adapter_changes_nothing_and_depends_only_on_its_seed():
    batch = DATA.batch(range(8))
    expected = classifier()(**batch).logits
    model = classifier()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = lora.add_lora(model, rank=4, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert not first.training and torch.equal(first(**batch).logits, expected)
    torch.manual_seed(6)
    again, other = (lora.add_lora(classifier(), rank=4, seed=seed) for seed in (1, 2))
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    assert all(same)
    pairs = zip(first.parameters(), other.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_training_leaves_frozen_weights_alone_and_learns():
    adapted = lora.add_lora(classifier(), rank=4)
    frozen = {n: p.detach().clone() for n, p in adapted.named_parameters() if not p.requires_grad}
    history = training.fit(adapted, DATA, DATA, config(epochs=6))
    assert history.losses[-1] < history.losses[0]
    moved = {n: p for n, p in adapted.named_parameters() if n not in frozen}
    assert all(torch.equal(p, frozen[n]) for n, p in adapted.named_parameters() if n in frozen)
    assert all(p.abs().max() > 0 for p in moved.values())


def test_the_best_weights_are_those_of_the_best_step_without_frozen_ones(tmp_path):
    """With this learning rate, training ends worse than it was; the best weights are kept."""
    seen = {}

    def remember(step, model, history):
        seen[step] = {n: p.detach().clone() for n, p in model.named_parameters()}

    settings = config(
        epochs=4,
        learning_rate=1.0,
        checkpoint_every=1,
        checkpoint_folder=tmp_path,
        evaluate_every=1,
    )
    adapted = lora.add_lora(classifier(), rank=4)
    history = training.fit(adapted, DATA, DATA, settings, callbacks=[remember])
    assert history.best_step < len(history.losses)
    best = seen[history.best_step]
    assert all(torch.equal(p, best[name]) for name, p in adapted.named_parameters())
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    copied = checkpoints.load(sorted(tmp_path.glob("step-*"))[-1])["run"]["best"]
    assert trained == copied.keys() & {name for name, _ in adapted.named_parameters()}
    assert not any("embeddings" in name for name in copied)


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path):
    def prepare():
        return lora.add_lora(classifier(dropout=0.1), rank=4)

    def interrupt(step, model, history):
        if step == 7:
            raise KeyboardInterrupt

    whole = prepare()
    expected = training.fit(whole, DATA, DATA, config())
    settings = {"checkpoint_every": 3, "checkpoint_folder": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        training.fit(prepare(), DATA, DATA, config(**settings), callbacks=[interrupt])
    resumed = prepare()
    history = training.fit(resumed, DATA, DATA, config(**settings, resume=True))
    assert "resumed after step 6." in history.events
    np.testing.assert_array_equal(history.losses, expected.losses)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)

    other = lora.add_lora(classifier(dropout=0.1), rank=4, alpha=1)
    with pytest.raises(InvalidValue, match=r"'alpha': 8.*'alpha': 1"):
        training.fit(other, DATA, DATA, config(**settings, resume=True))
    state = checkpoints.load(sorted(tmp_path.glob("step-*"))[-1])
    assert state["fingerprint"]["lora"]["rank"] == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank is 0; it must be a whole number, at least 1"),
        ({"rank": -3}, "rank is -3"),
        ({"rank": 2.0}, "rank is 2.0"),
        ({"rank": 33}, r"shape \(32, 32\).* Give 1 to 32"),
        ({"rank": 2, "alpha": 0}, "alpha is 0"),
        ({"rank": 2, "alpha": float("nan")}, "alpha is nan"),
        ({"rank": 2, "targets": ["query", "vlaue"]}, "Did you mean 'value'"),
        ({"rank": 2, "targets": "LayerNorm"}, "unknown target 'LayerNorm'"),
        ({"rank": 2, "targets": []}, "targets is empty"),
    ],
)
def test_wrong_input_is_explained_and_leaves_the_model_alone(settings, message):
    model = classifier()
    with pytest.raises(InvalidValue, match=message):
        lora.add_lora(model, **settings)
    assert all(p.requires_grad for p in model.parameters())
    assert model.state_dict().keys() == classifier().state_dict().keys()


def test_a_dotted_target_picks_fewer_layers():
    adapted = lora.add_lora(classifier(), rank=2, targets="attention.output.dense")
    wrapped = [n for n, m in adapted.base_model.model.named_modules() if hasattr(m, "lora_A")]
    assert len(wrapped) == 2 and all(n.endswith("attention.output.dense") for n in wrapped)


def test_an_architecture_without_known_targets_asks_for_them():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    with pytest.raises(InvalidValue, match="no targets are known for the architecture"):
        lora.add_lora(model, rank=2)


def test_an_adapter_is_added_and_merged_once():
    with pytest.raises(InvalidValue, match="no adapter to merge"):
        lora.merge(classifier())
    adapted = lora.add_lora(classifier(), rank=2)
    with pytest.raises(InvalidValue, match="already has an adapter"):
        lora.add_lora(adapted, rank=2)
    merged = lora.merge(adapted)
    assert lora.settings(merged) is None
    assert lora.settings(lora.add_lora(merged, rank=2))["rank"] == 2
