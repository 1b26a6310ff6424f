"""Models of a few thousand random weights, and random texts for them: no assets needed."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from helpers.batches import EncodedTexts, LanguageBlocks


@pytest.fixture(autouse=True)
def one_thread():
    """On models this small a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


VOCABULARY, POSITIONS = 60, 24


def bert_config(dropout: float = 0.0, attention_dropout: float | None = None, **settings):
    return BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=POSITIONS,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout if attention_dropout is None else attention_dropout,
        **settings,
    )


def classifier(dropout: float = 0.0, labels: int = 3, seed: int = 0, **settings):
    torch.manual_seed(seed)
    config = bert_config(dropout, num_labels=labels, **settings)
    return BertForSequenceClassification(config).eval()


def masked_model(seed: int = 0, **settings):
    torch.manual_seed(seed)
    return BertForMaskedLM(bert_config(**settings)).eval()


def causal_model(seed: int = 0):
    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=POSITIONS,
            n_embd=32,
            n_layer=2,
            n_head=2,
            bos_token_id=1,
            eos_token_id=1,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    ).eval()


def encoded(examples: int = 60, labels: int = 3, seed: int = 0) -> EncodedTexts:
    """Random texts of 4 to 20 tokens, ``[2 ... 3]``, of which the second tells the label."""
    random = np.random.default_rng(seed)
    lengths = random.integers(4, 21, examples)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = random.integers(10, VOCABULARY, offsets[-1]).astype(np.int32)
    classes = random.integers(0, labels, examples)
    ids[offsets[:-1]], ids[offsets[1:] - 1] = 2, 3
    ids[offsets[:-1] + 1] = 5 + classes
    return EncodedTexts(ids, offsets, classes)


def blocks(examples: int = 24, length: int = 12, seed: int = 0) -> LanguageBlocks:
    random = np.random.default_rng(seed)
    return LanguageBlocks(random.integers(10, VOCABULARY, (examples, length)).astype(np.int32))


def tokenizer():
    """A WordPiece tokenizer of 60 tokens: 5 special ones, ``w5`` to ``w58`` and ``##s``."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(5, 59)), "##s"]
    model = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    model.pre_tokenizer = Whitespace()
    model.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=model,
        model_max_length=POSITIONS,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def texts(examples: int = 50, longest: int = 30, seed: int = 0) -> list[str]:
    """Random texts of 1 to ``longest`` words."""
    random = np.random.default_rng(seed)
    return [
        " ".join(f"w{i}" for i in random.integers(5, 59, random.integers(1, longest + 1)))
        for _ in range(examples)
    ]
