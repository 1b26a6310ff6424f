"""The planner against what torch does: the parameters of real models, the tensors that autograd
keeps, the peak of a step by torch's memory tracker, the products that its FLOP counter counts."""

import pytest
import torch
from transformers import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2LMHeadModel,
    LlamaForCausalLM,
)

from helpers import hardware

MODELS = {
    ("bert", "classifier"): BertForSequenceClassification,
    ("bert", "tokens"): BertForTokenClassification,
    ("bert", "questions"): BertForQuestionAnswering,
    ("bert", "masked-lm"): BertForMaskedLM,
    ("gpt2", "causal-lm"): GPT2LMHeadModel,
    ("llama", "causal-lm"): LlamaForCausalLM,
}
PUBLISHED = {  # as their model cards and weights have it
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-3-8b": 8_030_261_248,
    "smollm2-135m": 134_515_008,
    "gpt2": 124_439_808,
}


@pytest.mark.parametrize("name", hardware.MODELS)
def test_parameters_are_those_of_the_model_itself(name):
    config = hardware.model_config(name)
    for (family, head), kind in MODELS.items():
        if family == config.model_type:
            with torch.device("meta"):
                model = kind(config)
            plan = hardware.plan(name, batch_size=1, sequence_length=8, head=head)
            real = sum(parameter.numel() for parameter in model.parameters())
            assert plan.parameter_count == plan.trainable_count == real
            assert plan.parameters == 4 * real


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name):
    assert hardware.plan(name, batch_size=1, sequence_length=8).parameter_count == PUBLISHED[name]
