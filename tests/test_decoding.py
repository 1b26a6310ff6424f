"""Decoding by hand returns the tokens of transformers; bad settings are explained; diversity."""

import copy
import math

import pytest
import torch
from tiny import causal_model
from tiny import one_thread as one_thread
from torchmetrics.functional.text import bleu_score
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, LogitsProcessorList
from transformers.generation import logits_process

from helpers import models
from helpers.errors import InvalidValue
from helpers.generation import decoding, diversity
from helpers.generation.chat import Chat, continue_text

V, END, PAD = 60, 1, 2  # PAD isn't 0, because transformers then pads beams with the end token


def llama(seed=0):
    """Grouped-query attention, rotary positions. Wide weights, so that it has clear preferences."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=V,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=END,
            pad_token_id=PAD,
        )
    ).eval()


@torch.no_grad()
def gpt(seed=0):
    """Learned positions, and keys of its own for each head. Larger weights, for the same reason."""
    model = causal_model(seed)
    model.generation_config.pad_token_id = PAD
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.mul_(10)
    return model


def theirs(model, ids, *, seed=42, mask=None, sample=False, end=(END,), **settings):
    """The output of transformers. All settings are given, because transformers has defaults for the
    others, such as top_k=50."""
    if sample:
        settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | settings
    config = GenerationConfig(
        do_sample=sample, eos_token_id=list(end) or None, pad_token_id=PAD, **settings
    )
    torch.manual_seed(seed)
    mask = torch.ones_like(ids) if mask is None else mask
    model = copy.copy(model)
    model.generation_config = GenerationConfig()
    return model.generate(input_ids=ids, attention_mask=mask, generation_config=config)


def ours(model, ids, *, mask=None, end=(END,), **settings):
    return decoding.generate(model, ids, attention_mask=mask, end_tokens=end, **settings)


GREEDY = [{}, {"repetition_penalty": 1.3}, {"repetition_penalty": 0.8}]
SAMPLED = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 5},
    {"top_k": 500},
    {"top_p": 0.8},
    {"top_p": 1.0},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.9},
    {"temperature": 1.5, "top_p": 0.6, "repetition_penalty": 1.2},
]
BEAMS = [
    {"num_beams": 2},
    {"num_beams": 5},
    {"num_beams": 3, "length_penalty": 0.0},
    {"num_beams": 3, "length_penalty": 2.0},
    {"num_beams": 4, "length_penalty": -1.0},
    {"num_beams": 3, "repetition_penalty": 1.5},
]
ALL = [*GREEDY, *({"sample": True} | settings for settings in SAMPLED), *BEAMS]


@pytest.mark.parametrize("settings", ALL, ids=str)
@pytest.mark.parametrize("make", [llama, gpt])
def test_tokens_equal_those_of_transformers(make, settings):
    ended = 0
    for seed in range(3):
        model = make(seed)
        ids = torch.randint(2, V, (3, 5), generator=torch.Generator().manual_seed(seed))
        for end in [(END,), (END, *range(30, 52)), ()]:
            expected = theirs(model, ids, end=end, max_new_tokens=14, **settings)
            found = ours(model, ids, end=end, max_new_tokens=14, **settings)
            assert found.tolist() == expected.tolist()
            ended += bool(torch.isin(found[:, 5:-1], torch.tensor(end)).any())
    if settings.get("length_penalty", 0) < 2:  # a reward for length that no short text beats
        assert ended, "no text ended early, so endings were not tested"


@pytest.mark.parametrize("settings", [GREEDY[1], {"sample": True, "top_p": 0.8}, BEAMS[1]], ids=str)
def test_prompts_of_different_lengths_are_padded_on_the_left(settings):
    model = llama(1)
    ids = torch.tensor([[0, 0, 7, 8], [0, 9, 4, 5], [11, 12, 13, 14]])
    mask = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]])
    end = (END, *range(40, 50))
    expected = theirs(model, ids, mask=mask, end=end, max_new_tokens=10, **settings)
    found = ours(model, ids, mask=mask, end=end, max_new_tokens=10, **settings)
    assert found.tolist() == expected.tolist()
    if "sample" not in settings:
        alone = ours(model, torch.tensor([[7, 8]]), end=end, max_new_tokens=10, **settings)
        new = alone[0, 2:].tolist()
        assert found[0, 4 : 4 + len(new)].tolist() == new


@pytest.fixture
def watched():
    """A model, and the number of tokens that it reads in each call."""
    model, read = llama(), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    return model, read


@pytest.mark.parametrize("settings", [{}, {"sample": True}, {"num_beams": 3}], ids=str)
def test_each_token_is_read_once(watched, settings):
    model, read = watched
    ours(model, torch.tensor([[5, 6, 7]]), end=(), max_new_tokens=6, **settings)
    assert read == [3, 1, 1, 1, 1, 1]


@torch.no_grad()
def test_the_cache_changes_no_score_and_saves_reading(watched):
    model, read = watched
    text = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
    cached, uncached = (
        decoding.Reader(model, torch.ones_like(text[:, :3]), use_cache=use_cache)
        for use_cache in (True, False)
    )
    for length in (3, 4, 5):
        expected = model(input_ids=text[:, :length]).logits[:, -1]
        for reader in (cached, uncached):
            torch.testing.assert_close(reader.scores(text[:, :length]), expected)
    assert read == [3, 3, 3, 4, 1, 4, 5, 1, 5]


def test_a_seed_repeats_a_text_and_leaves_the_global_generator_alone():
    model, ids = llama(), torch.tensor([[5, 6, 7]] * 4)
    before = torch.get_rng_state()
    a, b, c = (
        ours(model, ids, sample=True, max_new_tokens=8, temperature=2.0, seed=s) for s in (1, 1, 2)
    )
    assert a.tolist() == b.tolist() != c.tolist()
    assert torch.equal(torch.get_rng_state(), before)
    assert len({tuple(row) for row in a.tolist()}) > 1


def test_the_end_token_and_mode_of_the_model():
    model, ids = llama(), torch.tensor([[5, 6, 7]])
    first = ours(model, ids, end=(), max_new_tokens=8)[0, 3:].tolist()
    model.generation_config.eos_token_id = first[2]
    model.train()
    found = decoding.generate(model, ids, max_new_tokens=8)
    assert found[0, 3:].tolist() == first[: first.index(first[2]) + 1]
    assert model.training


@pytest.mark.parametrize("seed", range(3))
def test_filters_equal_transformers_processors(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = 4 * torch.randn(3, V, generator=generator)
    ids = torch.randint(0, V, (3, 9), generator=generator)
    repetition = logits_process.RepetitionPenaltyLogitsProcessor(1.4)
    temperature = logits_process.TemperatureLogitsWarper(0.6)
    top_k, top_p = logits_process.TopKLogitsWarper(7), logits_process.TopPLogitsWarper(0.75)
    pairs = [
        (decoding.penalise_repetition(scores, ids, 1.4), repetition),
        (decoding.apply_temperature(scores, 0.6), temperature),
        (decoding.keep_top_k(scores, 7), top_k),
        (decoding.keep_top_p(scores, 0.75), top_p),
        (
            decoding.filter_scores(scores, temperature=0.6, top_k=7, top_p=0.75),
            LogitsProcessorList([temperature, top_k, top_p]),
        ),
    ]
    for mine, processor in pairs:
        assert torch.equal(mine, processor(ids, scores.clone()))
        assert mine.shape == scores.shape and not torch.equal(mine, scores)


def test_a_nucleus_worked_by_hand():
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()

    def kept(p):
        return decoding.keep_top_p(scores, p).isfinite()[0].tolist()

    assert kept(0.4) == [True, False, False, False]
    assert kept(0.6) == [True, True, False, False]
    assert kept(0.9) == [True, True, True, False]
    assert kept(1.0) == [True] * 4


def test_a_penalty_lowers_scores_of_either_sign_once_and_ignores_padding():
    scores = torch.tensor([[2.0, -2.0, 0.5, 1.0]])
    ids, mask = torch.tensor([[3, 0, 0, 1]]), torch.tensor([[0, 1, 1, 1]])
    found = decoding.penalise_repetition(scores, ids, 2.0, mask)
    assert found.tolist() == [[1.0, -4.0, 0.5, 1.0]]


BAD = [
    ({"temperature": 0.0, "sample": True}, "temperature is 0.0; it must be above 0"),
    ({"temperature": -1.0, "sample": True}, "temperature is -1.0"),
    ({"temperature": math.nan, "sample": True}, "temperature is nan"),
    ({"top_p": 0.0, "sample": True}, "top_p is 0.0; it must be above 0 and at most 1"),
    ({"top_p": -0.1, "sample": True}, "top_p is -0.1"),
    ({"top_p": 1.01, "sample": True}, "top_p is 1.01"),
    ({"top_k": 0, "sample": True}, "top_k is 0; it must be at least 1. None keeps all"),
    ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; it must be above 0"),
    ({"repetition_penalty": -1.2, "num_beams": 2}, "repetition_penalty is -1.2"),
    ({"num_beams": 0}, "num_beams is 0; it must be at least 1"),
    ({"num_beams": 2, "sample": True}, "choose one of the two"),
    ({"temperature": 0.7}, "nothing is drawn; set sample=True"),
    ({"length_penalty": 2.0}, "length_penalty is 2.0; it needs num_beams above 1"),
    ({"ids": torch.tensor([[5, V]])}, f"run from 5 to {V}; the model knows 0 to {V - 1}"),
    ({"ids": torch.tensor([[-1, 5]])}, "run from -1 to 5"),
    ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be"),
    ({"max_new_tokens": 62}, "3 tokens; with max_new_tokens=62 .* window of 64. Shorten"),
    ({"ids": torch.zeros(1, 0, dtype=torch.long)}, "at least one token per prompt"),
    ({"ids": torch.zeros(3, dtype=torch.long)}, r"shape \(3,\)"),
    ({"ids": torch.zeros(1, 3)}, "float32"),
    ({"mask": torch.tensor([[1, 1, 0]])}, "padding_side='left'"),
    ({"mask": torch.tensor([[1, 0, 1]])}, "padding_side='left'"),
    ({"mask": torch.tensor([[1, 1]])}, "padding_side='left'"),
]


@pytest.mark.parametrize(("settings", "message"), BAD, ids=lambda value: str(value)[:40])
def test_a_bad_setting_is_explained_before_anything_runs(settings, message):
    model = llama()
    model.forward = None
    arguments = {"ids": torch.tensor([[5, 6, 7]]), "max_new_tokens": 4} | settings
    with pytest.raises(InvalidValue, match=message):
        ours(model, arguments.pop("ids"), **arguments)


def test_an_empty_prompt_for_a_reader_is_explained():
    with pytest.raises(InvalidValue, match="prompt is empty"):
        decoding.Reader(llama(), torch.ones(1, 0))


def test_the_window_can_be_filled_to_the_last_token():
    ids = torch.tensor([[5, 6, 7]])
    assert ours(llama(), ids, end=(), max_new_tokens=61).shape == (1, 64)


# The real model.


@pytest.fixture(scope="module")
def real():
    torch.set_num_threads(2)
    return models.load_causal_lm(), models.load_tokenizer("causal-lm")


PROMPTS = ["The film was", "Shares fell after the company said"]
REAL = [
    {},
    {"num_beams": 3},
    {"repetition_penalty": 1.2},
    {"sample": True, "temperature": 0.8, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.1},
]


@pytest.mark.parametrize("settings", REAL, ids=str)
def test_tokens_of_the_real_model_equal_those_of_transformers(real, settings):
    model, tokenizer = real
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        expected = theirs(model, ids, end=(2,), max_new_tokens=8, **settings)
        assert decoding.generate(model, ids, max_new_tokens=8, **settings).equal(expected)


# The writing assistant and the chat.


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer("causal-lm")


@pytest.fixture(scope="module")
def wordy(tokenizer):
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=200,
            initializer_range=0.3,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
        )
    ).eval()


def test_versions_of_a_continuation(wordy, tokenizer):
    write = {"max_new_tokens": 6, "sample": True, "seed": 3}
    found = continue_text(wordy, tokenizer, "The film was", versions=3, **write)
    assert len(found) == len(set(found)) == 3
    assert not any(text.startswith("The film was") for text in found)
    (first, *_) = continue_text(wordy, tokenizer, "The film was", max_new_tokens=6)
    ids = tokenizer("The film was", return_tensors="pt")["input_ids"]
    greedy = decoding.generate(wordy, ids, max_new_tokens=6)
    assert first == tokenizer.decode(greedy[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ""}, "at least one token per prompt"),
        ({"versions": 0}, "at least one token per prompt"),
        ({"text": "word " * 250}, "window of 200"),
        ({"top_p": 2, "sample": True}, "top_p is 2"),
    ],
)
def test_a_bad_continuation_is_explained(wordy, tokenizer, arguments, message):
    arguments = {"text": "The film was"} | arguments
    with pytest.raises(InvalidValue, match=message):
        continue_text(wordy, tokenizer, **arguments)


def test_a_chat_sends_the_whole_conversation_in_the_chat_format_of_the_model(wordy, tokenizer):
    chat = Chat(wordy, tokenizer, max_new_tokens=4)
    first = chat.say("My name is Ada.")
    second = chat.say("What is my name?")
    assert first.forgotten == second.forgotten == 0
    assert str(first) == first.text
    assert [question for question, _ in chat.turns] == ["My name is Ada.", "What is my name?"]
    messages = [
        {"role": "system", "content": chat.system},
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "What is my name?"},
    ]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    assert second.prompt == tokenizer.decode(ids["input_ids"])
    chat.reset()
    assert chat.say("My name is Ada.") == first


def test_a_chat_forgets_its_oldest_turns_and_reports_it(wordy, tokenizer):
    chat = Chat(wordy, tokenizer, max_new_tokens=4, window=70)
    replies = [chat.say(f"Question number {n}, please.") for n in range(6)]
    sizes = [len(tokenizer(reply.prompt)["input_ids"]) for reply in replies]
    assert max(sizes) <= 66
    assert replies[0].forgotten == 0 < replies[-1].forgotten
    kept = [question for question, _ in chat.turns]
    assert kept == [f"Question number {n}, please." for n in range(6)][-len(kept) :]
    assert len(kept) + sum(reply.forgotten for reply in replies) == 6
    assert "the oldest" in str(replies[-1]) and "forgotten" in str(replies[-1])


def test_a_message_that_never_fits_leaves_the_chat_as_it_was(wordy, tokenizer):
    chat = Chat(wordy, tokenizer, max_new_tokens=4, window=70)
    chat.say("Hello.")
    turns = list(chat.turns)
    with pytest.raises(InvalidValue, match="the window leaves 66"):
        chat.say("long " * 100)
    with pytest.raises(InvalidValue, match="empty"):
        chat.say(" ")
    assert chat.turns == turns


@pytest.mark.parametrize("window", [4, 201])
def test_a_window_must_fit_the_model(wordy, tokenizer, window):
    with pytest.raises(InvalidValue, match=f"window is {window}; .* 200 positions"):
        Chat(wordy, tokenizer, window=window, max_new_tokens=4)


# Diversity.


def test_distinct_n_worked_by_hand():
    texts = ["a b a b", "A b c"]
    assert diversity.distinct_n(texts, 1) == 3 / 7
    assert diversity.distinct_n(texts, 2) == 3 / 5  # ab ba ab, ab bc
    assert diversity.distinct_n(["a b c d"], 2) == 1.0


def test_bleu_equals_that_of_torchmetrics():
    texts = [
        "the film was long and the film was loud",
        "the film was long and it was loud",
        "it was the film of",  # no two references are equally close in length
        "the film was the film of the year and the best",
    ]
    for max_n in (1, 2, 3):
        for i, text in enumerate(texts):
            others = texts[:i] + texts[i + 1 :]
            expected = bleu_score([text], [others], n_gram=max_n)
            if expected > 0:  # without a match, it is 0 there and smoothed here
                assert diversity.bleu(text, others, max_n) == pytest.approx(float(expected), 1e-5)


def test_self_bleu_from_nothing_in_common_to_identical_texts():
    same = diversity.self_bleu(["the film was very long"] * 3)
    assert same == pytest.approx([1.0] * 3)
    apart = diversity.self_bleu(["a b c d e", "f g h i j", "k l m n o"])
    assert len(apart) == 3 and max(apart) < 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diversity.distinct_n(["a"], 2), "none of the 1 texts has 2 words"),
        (lambda: diversity.self_bleu(["a b"]), "there are 0 references"),
        (lambda: diversity.bleu("", ["a"]), "at least one word"),
        (lambda: diversity.bleu("a", []), "one reference"),
    ],
)
def test_texts_that_cannot_be_measured(call, message):
    with pytest.raises(InvalidValue, match=message):
        call()
