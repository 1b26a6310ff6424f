"""Instruction tuning with the real tokenizer and its chat template, and tiny random models."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import one_thread as one_thread
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from helpers import models, training
from helpers.batches import take_rows
from helpers.errors import InvalidValue
from helpers.generation import instructions
from helpers.models import lora

PAIRS = [
    {"id": "a", "instruction": "What is the capital of Norway?", "answer": "Oslo"},
    {"id": "b", "instruction": "Say it twice: a long day at sea.", "answer": "A long day, twice."},
    {"id": "c", "instruction": "Yes or no?", "answer": "no"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer("causal-lm")


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            initializer_range=0.3,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).eval()


def test_the_pairs_of_the_course_are_loaded_by_split():
    train = instructions.load_instructions("train")
    heldout = instructions.load_instructions("heldout")
    assert len(train) >= 200 and {p["split"] for p in train} == {"train"}
    assert heldout and {p["split"] for p in heldout} == {"heldout"}
    assert len(instructions.load_instructions()) == len(train) + len(heldout)
    with pytest.raises(InvalidValue, match="Did you mean 'heldout'"):
        instructions.load_instructions("held-out")


@pytest.mark.parametrize("system", [instructions.SYSTEM, None])
def test_ids_equal_those_of_the_chat_template_for_the_whole_conversation(tokenizer, system):
    pairs = instructions.load_instructions()
    data = instructions.encode_instructions(tokenizer, pairs, system=system)
    before = [] if system is None else [{"role": "system", "content": system}]
    for number, row in enumerate(pairs):
        messages = [
            *before,
            {"role": "user", "content": row["instruction"]},
            {"role": "assistant", "content": row["answer"]},
        ]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        expected = tokenizer(text.removesuffix("\n"), add_special_tokens=False)["input_ids"]
        assert data.batch([number])["input_ids"][0].tolist() == expected


def test_the_system_message_of_the_template_is_left_out(tokenizer):
    shown = instructions.encode_instructions(tokenizer, PAIRS).batch([0])["input_ids"][0]
    text = tokenizer.decode(shown)
    assert instructions.SYSTEM in text and "SmolLM" not in text
    default = instructions.encode_instructions(tokenizer, PAIRS, system=None).batch([0])
    assert "SmolLM" in tokenizer.decode(default["input_ids"][0])


def test_only_the_answer_and_its_end_token_have_labels(tokenizer):
    data = instructions.encode_instructions(tokenizer, PAIRS)
    batch = data.batch([2, 1, 0])
    assert batch["input_ids"].shape == batch["labels"].shape == (3, data.lengths.max())
    for row, number in enumerate([2, 1, 0]):
        labels, ids = batch["labels"][row], batch["input_ids"][row]
        kept = labels[labels != -100]
        assert tokenizer.decode(kept) == PAIRS[number]["answer"] + tokenizer.eos_token
        places = (labels != -100).nonzero().flatten()
        assert places.tolist() == list(range(places[0], data.lengths[number]))
        assert torch.equal(kept, ids[places])
        assert batch["attention_mask"][row].tolist() == [
            int(column < data.lengths[number]) for column in range(len(ids))
        ]


def test_the_loss_of_the_model_is_the_mean_over_the_counted_items(tokenizer, model):
    data = instructions.encode_instructions(tokenizer, PAIRS)
    batch = data.batch(range(3))
    total = 0.0
    with torch.no_grad():
        for row in PAIRS:
            messages = [
                {"role": "system", "content": instructions.SYSTEM},
                {"role": "user", "content": row["instruction"]},
            ]
            prompt = tokenizer.apply_chat_template(
                messages, tokenize=True, add_generation_prompt=True, return_dict=True
            )["input_ids"]
            reply = [*tokenizer(row["answer"])["input_ids"], tokenizer.eos_token_id]
            logits = model(input_ids=torch.tensor([prompt + reply])).logits[0]
            predicted = logits[len(prompt) - 1 : -1]  # each position predicts the next token
            total += functional.cross_entropy(
                predicted, torch.tensor(reply), reduction="sum"
            ).item()
        loss = model(**batch).loss
        items = data.count_items(batch)
        assert items == sum(len(tokenizer(row["answer"])["input_ids"]) + 1 for row in PAIRS)
        assert loss.item() == pytest.approx(total / items, rel=1e-5)
        parts = [take_rows(batch, rows) for rows in ([0], [1, 2])]
        shared = sum(model(**part).loss.item() * data.count_items(part) for part in parts)
        assert shared == pytest.approx(total, rel=1e-5)


def test_a_model_learns_the_answers_and_an_adapter_keeps_them(tokenizer, model):
    data = instructions.encode_instructions(tokenizer, PAIRS)
    questions, expected = ([row[field] for row in PAIRS] for field in ("instruction", "answer"))
    config = training.TrainingConfig(
        epochs=60, batch_size=3, learning_rate=1e-2, progress=False, device="cpu", accumulation=2
    )
    history = training.fit(model, data, data, config)
    assert history.evaluations[-1]["loss"] < 0.1 < history.losses[0]
    assert instructions.answer(model, tokenizer, questions) == expected

    adapted = lora.add_lora(model, rank=4)
    learnt = training.fit(adapted, data, config=replace(config, epochs=3)).losses
    assert learnt[-1] < learnt[0]
    assert instructions.answer(adapted, tokenizer, questions) == expected
    assert instructions.answer(lora.merge(adapted), tokenizer, questions) == expected


def test_answers_equal_greedy_search_by_hand(tokenizer, model):
    questions = [row["instruction"] for row in PAIRS]
    model.train()
    written = instructions.answer(model, tokenizer, questions, max_new_tokens=6)
    assert model.training
    model.eval()
    assert written == instructions.answer(
        model, tokenizer, questions, max_new_tokens=6, batch_size=2
    )
    for question, found in zip(questions, written, strict=True):
        messages = [
            {"role": "system", "content": instructions.SYSTEM},
            {"role": "user", "content": question},
        ]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        start = ids.shape[1]
        with torch.no_grad():
            for _ in range(6):
                following = model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)
                ids = torch.cat([ids, following], dim=1)
                if following.item() == tokenizer.eos_token_id:
                    break
        assert found == tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip()


def test_wrong_input_is_explained(tokenizer, model):
    with pytest.raises(InvalidValue, match=r"pair b has .* tokens, more than max_length=22"):
        instructions.encode_instructions(tokenizer, PAIRS[1:], max_length=22)
    with pytest.raises(InvalidValue, match="no chat template"):
        instructions.encode_instructions(models.load_tokenizer("encoder"), PAIRS)
    with pytest.raises(InvalidValue, match="max_new_tokens is 0"):
        instructions.answer(model, tokenizer, ["Hi?"], max_new_tokens=0)
    with pytest.raises(InvalidValue, match="window of 128"):
        instructions.answer(model, tokenizer, ["Hi?"], max_new_tokens=120)
    assert instructions.answer(model, tokenizer, []) == []


def test_lengths_equal_those_of_the_rows(tokenizer):
    data = instructions.encode_instructions(tokenizer, PAIRS)
    assert len(data) == 3
    counts = [int(data.batch([i])["attention_mask"].sum()) for i in range(3)]
    np.testing.assert_array_equal(data.lengths, counts)
