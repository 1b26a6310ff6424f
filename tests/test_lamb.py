"""LAMB, against numbers worked by hand and against the libraries that have it."""

import math

import numpy as np
import pytest
import tiny
import torch

from helpers.errors import InvalidValue
from helpers.training.lamb import Lamb, trust_ratio

one_thread = tiny.one_thread


def tensors(seed=0, scale=1.0):
    """A matrix, a vector and a tensor of zeros (a fresh bias)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [scale * torch.randn(size, generator=generator) for size in ((5, 4), (7,))]
    return [torch.nn.Parameter(tensor) for tensor in [*drawn, torch.zeros(3)]]


def train(optimizer, parameters, steps=6):
    """Gradients that change from step to step, and the weights they lead to."""
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        for parameter in parameters:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.grad = (parameter.detach() + noise) * (0.1 + step)
        optimizer.step()
    return [parameter.detach().clone() for parameter in parameters]


def assert_same(found, expected, tolerance=2e-6):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


def test_one_step_by_hand():
    """In the first step m_hat = g and v_hat = g * g, so Adam's step is the sign of g."""
    w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    w.grad = torch.tensor([0.5, -2.0])
    Lamb([w], lr=0.1, weight_decay=0.0, eps=1e-12).step()
    # |w| = 5, |u| = sqrt(2), ratio 5 / sqrt(2)
    step = 0.1 * 5 / math.sqrt(2)
    torch.testing.assert_close(w.detach(), torch.tensor([3 - step, 4 + step]))


def test_weight_decay_is_part_of_what_is_measured():
    w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    w.grad = torch.tensor([0.5, -2.0])
    Lamb([w], lr=0.1, weight_decay=0.5, eps=1e-12).step()
    # u = (1, -1) + 0.5 * (3, 4) = (2.5, 1)
    ratio = 5 / math.hypot(2.5, 1)
    torch.testing.assert_close(
        w.detach(), torch.tensor([3 - 0.1 * ratio * 2.5, 4 - 0.1 * ratio * 1])
    )


@pytest.mark.parametrize("bias_correction", [True, False])
@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_six_steps_equal_the_algorithm_in_numpy(bias_correction, max_grad_norm):
    ours = tensors()
    weights = [p.detach().double().numpy() for p in ours]
    optimizer = Lamb(
        ours,
        lr=0.02,
        weight_decay=0.1,
        bias_correction=bias_correction,
        max_grad_norm=max_grad_norm,
    )
    found = train(optimizer, ours)
    generator, moments = torch.Generator().manual_seed(1), [(0.0, 0.0)] * len(weights)
    for step in range(6):
        gradients = [
            (w + torch.randn(w.shape, generator=generator).numpy()) * (0.1 + step) for w in weights
        ]
        norm = math.sqrt(sum((g**2).sum() for g in gradients))
        for k, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            g = g / norm if max_grad_norm and norm > 1 else g
            m, v = moments[k]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            moments[k] = m, v
            if bias_correction:
                m, v = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
            u = m / (np.sqrt(v) + 1e-6) + 0.1 * w
            lengths = np.linalg.norm(w), np.linalg.norm(u)
            weights[k] = w - 0.02 * (lengths[0] / lengths[1] if min(lengths) > 0 else 1) * u
    assert_same(found, [torch.from_numpy(w).float() for w in weights])


def test_it_equals_fastais():
    """With bias correction; fastai has weight decay outside, so there is none here."""
    optimizer = pytest.importorskip("fastai.optimizer", reason="pip install fastai")
    ours, theirs = tensors(), tensors()
    found = train(Lamb(ours, lr=0.02, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.0), ours)
    reference = optimizer.Lamb(theirs, lr=0.02, mom=0.9, sqr_mom=0.99, eps=1e-5, wd=0.0)
    assert_same(found, train(reference, theirs))
    assert (found[0] - tensors()[0]).abs().min() > 1e-3


@pytest.mark.parametrize("scale", [1.0, 10.0])
@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_it_equals_pytorch_optimizers(scale, max_grad_norm):
    """Without bias correction, with |w| capped at 10 (which the larger weights reach), with
    weight decay inside the step, with NVIDIA's scaling of all gradients or without."""
    library = pytest.importorskip("pytorch_optimizer", reason="pip install pytorch_optimizer")
    ours, theirs = tensors(scale=scale), tensors(scale=scale)
    optimizer = Lamb(
        ours,
        lr=0.02,
        weight_decay=0.1,
        bias_correction=False,
        max_weight_norm=10.0,
        max_grad_norm=max_grad_norm,
    )
    reference = library.Lamb(
        theirs,
        lr=0.02,
        weight_decay=0.1,
        weight_decouple=False,
        pre_norm=max_grad_norm is not None,
        adam_debias=True,  # without it, the learning rate is divided by 1 - beta1**t
    )
    # It adds eps to the norms it divides by.
    assert_same(train(optimizer, ours), train(reference, theirs), tolerance=2e-5 * scale)


def test_pytorch_optimizers_takes_ten_times_the_first_step_unless_told():
    """What lesson 17 says of it."""
    library = pytest.importorskip("pytorch_optimizer", reason="pip install pytorch_optimizer")
    ours, theirs = tensors(), tensors()
    settings = {"weight_decay": 0.0, "bias_correction": False}
    found = train(Lamb(ours, lr=0.2, **settings), ours, steps=1)
    assert_same(found, train(library.Lamb(theirs, lr=0.02), theirs, steps=1), tolerance=2e-5)


def test_twice_the_gradients_give_the_same_steps():
    ours, doubled = tensors(), tensors()
    settings = {"lr": 0.02, "weight_decay": 0.0, "eps": 1e-12}
    first, second = Lamb(ours, **settings), Lamb(doubled, **settings)
    for one, two in zip(ours, doubled, strict=True):
        one.grad, two.grad = torch.ones_like(one), 2 * torch.ones_like(two)
    first.step()
    second.step()
    assert_same([p.detach() for p in ours], [p.detach() for p in doubled])


def test_every_layer_moves_by_the_same_share():
    ours = tensors()[:2]
    before = [p.detach().clone() for p in ours]
    train(Lamb(ours, lr=0.02), ours, steps=1)
    for old, new in zip(before, ours, strict=True):
        torch.testing.assert_close((new - old).norm() / old.norm(), torch.tensor(0.02))


def test_without_the_ratio_it_is_adam():
    ours, theirs = tensors(), tensors()
    optimizer = Lamb([{"params": ours, "adapt": False}], lr=0.02, eps=1e-6, weight_decay=0.0)
    reference = torch.optim.Adam(theirs, lr=0.02, eps=1e-6)
    assert_same(train(optimizer, ours), train(reference, theirs))


def test_the_ratio_of_zeros_is_one():
    w, zero = torch.tensor([3.0, 4.0]), torch.zeros(2)
    assert trust_ratio(w, w / 2) == 2
    assert trust_ratio(zero, w) == trust_ratio(w, zero) == 1
    assert trust_ratio(10 * w, w, max_weight_norm=10.0) == 2


def test_the_stated_defaults():
    plain, stated = tensors(), tensors()
    settings = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01}
    optimizer = Lamb(stated, **settings, bias_correction=True, max_weight_norm=None)
    assert Lamb(tensors()).defaults == optimizer.defaults
    assert_same(train(Lamb(plain), plain), train(optimizer, stated), tolerance=0)


def test_a_tensor_without_gradient_stays():
    ours = tensors()
    ours[0].grad = torch.ones_like(ours[0])
    before = ours[1].detach().clone()
    Lamb(ours, lr=0.1, max_grad_norm=1.0).step()
    assert torch.equal(before, ours[1])
    Lamb(tensors(), max_grad_norm=1.0).step()


def test_it_goes_on_from_a_saved_state():
    whole, halves = tensors(), tensors()
    expected = train(Lamb(whole, lr=0.02), whole, steps=1)
    first = Lamb(halves, lr=0.02)
    train(first, halves, steps=1)
    second = Lamb(halves, lr=0.5)
    second.load_state_dict(first.state_dict())
    assert second.state[halves[0]]["step"] == 1 and second.param_groups[0]["lr"] == 0.02
    assert_same(expected, [p.detach() for p in halves])


def test_it_overfits_one_batch():
    model, batch = tiny.classifier(), tiny.encoded().batch(range(16))
    optimizer = Lamb(model.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.9 and losses[-1] < 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0; it must be above 0"),
        ({"eps": 0}, "eps is 0"),
        ({"max_weight_norm": 0}, "max_weight_norm is 0; it must be above 0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm is -1.0"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(InvalidValue, match=message):
        Lamb(tensors(), **settings)
