"""Masks against what dropout is by definition, and against torch's."""

import copy

import pytest
import tiny
import torch
from tiny import one_thread  # noqa: F401 (used by every test)
from torch import nn

from helpers.training.speed import ExampleDropout, ExampleMasks


class Twice(nn.Module):
    """A layer used twice, one used once, and one that drops nothing."""

    def __init__(self, p: float = 0.25) -> None:
        super().__init__()
        self.first, self.second, self.never = nn.Dropout(p), nn.Dropout(p), nn.Dropout(0.0)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.first(x), self.first(x), self.second(x), self.never(x)


def passes(rows, shape, *, p=0.25, step=0, examples=8, module=None):
    """What the layers make of ones; shape: of one example."""
    module = module or Twice(p)
    dropout = ExampleMasks(module)
    dropout.begin(step, examples)
    dropout.take(rows)
    return torch.stack(module.train()(torch.ones(len(rows), *shape)))


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_keeps_what_torch_keeps_on_average(p):
    ours = passes(range(8), (100, 257), p=p)
    kept = 1 / (1 - round(p * 65536) / 65536)
    for made in ours[:3]:
        assert made.unique().tolist() == pytest.approx([0.0, kept])
        # Five standard deviations of a share of independent draws.
        share, bound = (made == 0).double().mean().item(), 5 * (p * (1 - p) / made.numel()) ** 0.5
        assert share == pytest.approx(p, abs=bound)
        neighbours = ((made[..., 1:] == 0) & (made[..., :-1] == 0)).double().mean().item()
        assert neighbours == pytest.approx(p * p, abs=2 * bound)
    torch_kept = torch.nn.functional.dropout(torch.ones(1000), p).max().item()
    assert kept == pytest.approx(torch_kept, rel=1e-3)
    assert torch.equal(ours[3], torch.ones(8, 100, 257))


def test_every_example_layer_call_and_step_has_a_mask_of_its_own():
    first, again, second, _ = passes(range(8), (5, 40))
    other_step = passes(range(8), (5, 40), step=1)[0]
    masks = [*first, *again, *second, *other_step]
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == len(masks)


@pytest.mark.parametrize("shape", [(6, 32), (7, 5), (33,)])
def test_an_example_has_the_same_mask_in_any_company(shape):
    whole = passes(range(8), shape)
    assert torch.equal(passes([5, 2], shape), whole[:, [5, 2]])


def test_a_text_padded_further_keeps_its_masks():
    assert torch.equal(passes(range(3), (6, 32)), passes(range(3), (9, 32))[:, :, :6])


def test_gradient_passes_where_values_passed():
    module, x = Twice(), torch.rand(4, 3, 10, requires_grad=True)
    dropout = ExampleMasks(module)
    dropout.begin(3, 4)
    dropout.take(range(4))
    made = module.train()(x)[0]
    made.sum().backward()
    assert torch.allclose(x.grad, (made / x).detach())


def test_in_place_and_half_precision():
    module = nn.Sequential(nn.Dropout(0.5, inplace=True))
    dropout, x = ExampleMasks(module), torch.ones(2, 10, dtype=torch.bfloat16)
    dropout.begin(0, 2)
    dropout.take([0, 1])
    assert module.train()(x).data_ptr() == x.data_ptr()
    assert set(x.tolist()[0]) == {0.0, 2.0} and x.dtype == torch.bfloat16


def test_torch_does_it_where_there_are_no_rows_and_after_release():
    module, x = Twice(p=0.5).train(), torch.ones(4, 100)
    dropout = ExampleMasks(module)
    dropout.begin(0, 4)
    for rows in ([], [0, 1]):  # none taken; a tensor that is not one row an example
        dropout.take(rows)
        torch.manual_seed(0)
        expected = torch.nn.functional.dropout(x, 0.5)
        torch.manual_seed(0)
        assert torch.equal(module(x)[0], expected)
    dropout.take(range(4))
    assert torch.equal(module.eval()(x)[0], x)
    dropout.release()
    assert type(module.first) is nn.Dropout


def test_a_copy_of_the_model_can_be_made_meanwhile():
    model = tiny.classifier(dropout=0.5)
    ExampleMasks(model)
    twin, batch = copy.deepcopy(model).eval(), tiny.encoded(4).batch(range(4))
    assert torch.equal(twin(**batch).logits, model.eval()(**batch).logits)


def test_recomputed_activations_keep_torchs_dropout():
    model = tiny.classifier(dropout=0.5)
    for module in model.modules():  # what transformers' switch does, under its old and new name
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True
    assert ExampleMasks(model).layers == []
    model = tiny.classifier(dropout=0.5)
    assert len(ExampleMasks(model).layers) == 8
    kinds = [type(m) for m in model.modules() if isinstance(m, nn.Dropout)]
    assert kinds == [ExampleDropout] * 8
