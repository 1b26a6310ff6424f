"""Two processes, replicated and sharded, against one: losses, weights and bytes."""

import sys

import pytest
import tiny
import torch
from safetensors.torch import load_file

from helpers.errors import CourseError, InvalidValue
from helpers.hardware import processes, sharding
from helpers.models import load_classifier, load_tokenizer, save_trained
from helpers.training.config import TrainingConfig

FLOAT = 4
KINDS = ("parameters", "gradients", "optimizer")
two_processes = pytest.mark.skipif(
    sys.platform == "win32", reason="torch for Windows lacks the launcher's store"
)


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> processes.Setting:
    """The encoder's tokenizer over a tiny model of its own."""
    from transformers import BertForSequenceClassification

    folder, tokenizer = tmp_path_factory.mktemp("model") / "tiny", load_tokenizer("encoder")
    torch.manual_seed(0)
    config = tiny.bert_config(dropout=0.1, num_labels=2)
    config.vocab_size = len(tokenizer)
    save_trained(BertForSequenceClassification(config), tokenizer, folder)
    # 30 messages in batches of 7: both uneven shares and a last batch of two.
    return processes.Setting(
        model=str(folder), examples=30, max_length=16, batch_size=7, steps=6, learning_rate=1e-3
    )


@two_processes
def test_two_processes_equal_one(setting, tmp_path):
    one, weights = processes.run(setting, "replicated")
    assert one.processes == 1 and one.losses[-1] < one.losses[0]
    reports = processes.launch(setting, tmp_path)
    assert tuple(reports) == processes.WAYS
    for way, both in reports.items():
        assert [(r.rank, r.processes, r.way) for r in both] == [(0, 2, way), (1, 2, way)]
        others = load_file(tmp_path / f"{way}.safetensors")
        assert set(others) == set(weights)
        assert max((weights[k] - others[k]).abs().max() for k in weights) < 1e-5
        for report in both:
            assert report.losses == pytest.approx(one.losses, abs=1e-5)
            assert report.step_seconds > 0
    count = sum(tensor.numel() for tensor in weights.values()) * FLOAT
    tensors = len(weights)
    assert one.held == {
        "parameters": count, "gradients": count, "optimizer": 2 * count + tensors * FLOAT
    }  # fmt: skip
    assert reports["replicated"][0].held == reports["replicated"][1].held == one.held
    for kind in KINDS:
        halves = [report.held[kind] for report in reports["sharded"]]
        assert sum(halves) == pytest.approx(one.held[kind], rel=0.01)
        assert max(halves) < 0.51 * one.held[kind]
    # DDP keeps a second copy of the gradients, in its buckets.
    assert reports["replicated"][0].peak >= one.peak
    assert reports["sharded"][0].peak < 0.85 * reports["replicated"][0].peak


@two_processes
def test_a_run_that_fails_says_why(setting, tmp_path):
    wrong = processes.Setting(model="encodr", steps=1)
    with pytest.raises(CourseError, match="could not train together") as caught:
        processes.launch(wrong, tmp_path, processes=1)
    assert "unknown model 'encodr'" in str(caught.value)


def test_windows_is_told_what_to_do(setting, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(CourseError, match="Use WSL, Linux or Colab"):
        processes.launch(setting, tmp_path)


def test_one_process_cannot_share(setting, tmp_path, monkeypatch):
    with pytest.raises(InvalidValue, match="no processes are connected"):
        processes.run(setting, "sharded")
    with pytest.raises(InvalidValue, match=r"unknown way 'sharde'\. Did you mean 'sharded'"):
        processes.run(setting, "sharde")
    with pytest.raises(InvalidValue, match="processes is 0"):
        processes.launch(setting, tmp_path, processes=0)
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InvalidValue, match="this is one process by itself"):
        processes.main([str(tmp_path)])


def test_a_plain_models_weights_and_bytes(setting):
    """Without sharding: the model's own tensors, whole."""
    model = load_classifier(setting.model, labels=["a", "b"])
    config = TrainingConfig(batch_size=8, precision="fp32", device="cpu")
    held, peak = sharding.memory_of_a_step(model, tiny.encoded(8, labels=2), config)
    count = sum(p.numel() for p in model.parameters()) * FLOAT
    assert held["parameters"] == held["gradients"] == count
    assert peak > 2 * count
    whole = sharding.whole_weights(model)
    assert all(torch.equal(whole[name], p) for name, p in model.named_parameters())
