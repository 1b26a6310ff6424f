"""helpers.losses against torch, against transformers' own losses, and against numbers that can
be worked out on paper. Wrong versions that are easy to write must give another number."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from helpers import losses
from helpers.errors import CourseError, InvalidValue

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6}
DTYPES = tuple(TOLERANCE)


def close(mine, reference, dtype=torch.float64):
    torch.testing.assert_close(mine, reference, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def draw(*shape, dtype=torch.float64, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, dtype=dtype, generator=generator)


def classes(n, c, seed=1):
    return torch.randint(c, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def gpt():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50,
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=2,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config).double().eval()


@pytest.fixture(scope="module")
def padded():
    """(input_ids, attention_mask): three texts of 9, 6 and 2 tokens, padded on the right."""
    input_ids = torch.randint(1, 50, (3, 9), generator=torch.Generator().manual_seed(2))
    attention_mask = (torch.arange(9) < torch.tensor([[9], [6], [2]])).long()
    return input_ids * attention_mask, attention_mask


# -- cross-entropy -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("ignored", [0, 5])
def test_cross_entropy_equals_torchs(dtype, reduction, ignored):
    logits, labels = draw(17, 4, dtype=dtype), classes(17, 4)
    labels[:ignored] = -100
    reference = F.cross_entropy(logits, labels, reduction=reduction)
    mine = losses.cross_entropy(logits, labels, reduction=reduction)
    if dtype == torch.float32:  # a sum of 17 losses near 10 carries its own rounding
        torch.testing.assert_close(mine, reference, rtol=1e-6, atol=1e-6)
    else:
        close(mine, reference)


def test_cross_entropy_on_paper():
    logits = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)  # p = 3/4, 1/4
    assert losses.cross_entropy(logits, torch.tensor([0])).item() == pytest.approx(math.log(4 / 3))
    assert losses.cross_entropy(logits, torch.tensor([1])).item() == pytest.approx(math.log(4))
    blind = torch.zeros(5, 7, dtype=torch.float64)
    assert losses.cross_entropy(blind, classes(5, 7)).item() == pytest.approx(math.log(7))


def test_cross_entropys_gradient_is_p_minus_y():
    logits, labels = draw(6, 5).requires_grad_(), classes(6, 5)
    losses.cross_entropy(logits, labels, reduction="sum").backward()
    close(logits.grad, logits.detach().softmax(-1) - F.one_hot(labels, 5))


def test_huge_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    found = losses.cross_entropy(logits, torch.tensor([0, 0]), reduction="none")
    assert found.tolist() == [0.0, 2e4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised_to_float32_first(dtype):
    logits, labels = draw(9, 4, dtype=torch.float32).to(dtype), classes(9, 4)
    found = losses.cross_entropy(logits, labels)
    assert found.dtype == torch.float32
    close(found, F.cross_entropy(logits.float(), labels), torch.float32)


def test_a_mean_of_batch_means_is_another_number():
    logits, labels = draw(10, 3), classes(10, 3)
    labels[:4] = -100  # two batches of five: one and five labels count
    batches = [(logits[:5], labels[:5]), (logits[5:], labels[5:])]
    of_means = torch.stack([losses.cross_entropy(*batch) for batch in batches]).mean()
    sums = sum(losses.cross_entropy(*batch, reduction="sum") for batch in batches)
    close(sums / 6, losses.cross_entropy(logits, labels))
    assert abs(of_means - losses.cross_entropy(logits, labels)) > 0.05


def test_nothing_that_counts_has_no_mean():
    logits, labels = draw(3, 2), torch.full((3,), -100)
    assert losses.cross_entropy(logits, labels).isnan()
    assert losses.cross_entropy(logits, labels, reduction="sum") == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"labels": torch.tensor([0])}, "do not match"),
        ({"labels": torch.tensor([[0], [1]])}, "do not match"),
        ({"reduction": "average"}, "'average'"),
    ],
)
def test_bad_arguments_are_named(change, named):
    arguments = {"logits": torch.zeros(2, 3), "labels": torch.tensor([0, 1])} | change
    with pytest.raises(InvalidValue, match=named):
        losses.cross_entropy(**arguments)
    assert issubclass(InvalidValue, CourseError)


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_outside_the_classes_is_refused_by_torch(label):
    with pytest.raises((RuntimeError, IndexError), match=f"{label} is out of bounds"):
        losses.cross_entropy(torch.zeros(2, 3), torch.tensor([0, label]))


# -- causal language models ----------------------------------------------------------------------


def test_log_likelihood_equals_the_models_own_loss(gpt, padded):
    input_ids, attention_mask = padded
    labels = input_ids.masked_fill(attention_mask == 0, -100)
    with torch.no_grad():
        outputs = gpt(input_ids, attention_mask=attention_mask, labels=labels)
    summed = losses.log_likelihood(outputs.logits, input_ids, attention_mask)
    assert summed.shape == (3,)
    # 8 + 5 + 1 predictions; transformers' loss is computed in float32.
    close(-summed.sum() / 14, outputs.loss.double(), torch.float32)


def test_log_likelihood_of_each_text_alone_is_the_same(gpt, padded):
    input_ids, attention_mask = padded
    with torch.no_grad():
        together = losses.log_likelihood(
            gpt(input_ids, attention_mask=attention_mask).logits, input_ids, attention_mask
        )
        for row, length in enumerate([9, 6, 2]):
            alone = input_ids[row : row + 1, :length]
            close(together[row : row + 1], losses.log_likelihood(gpt(alone).logits, alone))


@pytest.mark.parametrize("dtype", DTYPES)
def test_token_log_probabilities_equal_log_softmax(dtype):
    logits, input_ids = draw(2, 6, 11, dtype=dtype), classes(12, 11).view(2, 6)
    reference = logits.log_softmax(-1)
    found = losses.token_log_probabilities(logits, input_ids)
    assert found.shape == (2, 5)
    for row in range(2):
        for i in range(1, 6):
            close(found[row, i - 1], reference[row, i - 1, input_ids[row, i]], dtype)


def test_padding_on_the_left_counts_as_little_as_on_the_right():
    logits, input_ids = draw(1, 5, 7), classes(5, 7).view(1, 5)
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    found = losses.token_log_probabilities(logits, input_ids, mask)
    assert (found[0, :2] == 0).all() and (found[0, 2:] < 0).all()
    close(found.sum(-1), losses.log_likelihood(logits[:, 2:], input_ids[:, 2:]))


def test_a_forgotten_shift_or_mask_is_another_number(gpt, padded):
    input_ids, attention_mask = padded
    with torch.no_grad():
        logits = gpt(input_ids, attention_mask=attention_mask).logits
    right = losses.log_likelihood(logits, input_ids, attention_mask)
    unshifted = logits.log_softmax(-1).gather(-1, input_ids.unsqueeze(-1)).squeeze(-1)
    forgotten_shift = (unshifted * attention_mask)[:, 1:].sum(-1)
    forgotten_mask = losses.log_likelihood(logits, input_ids)
    assert ((forgotten_shift - right).abs() > 0.1).all()
    close(forgotten_mask[0], right[0])  # the one text without padding
    assert ((forgotten_mask - right).abs()[1:] > 0.1).all()


def test_language_model_shapes_are_checked():
    with pytest.raises(InvalidValue, match="do not match"):
        losses.log_likelihood(torch.zeros(2, 5, 7), torch.zeros(2, 4, dtype=torch.long))
    for logits, labels in [((2, 5, 7), (2, 4)), ((2, 5), (2, 5)), ((2, 5, 3, 7), (2, 5))]:
        with pytest.raises(InvalidValue, match="do not match"):
            losses.masked_lm_loss(torch.zeros(logits), torch.zeros(labels, dtype=torch.long))
        with pytest.raises(InvalidValue, match="do not match"):
            losses.log_likelihood(torch.zeros(logits), torch.zeros(labels, dtype=torch.long))


# -- masked language models ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def masked(padded):
    """(logits, labels, the model's own loss) of a tiny BERT on the padded batch."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        initializer_range=0.5,
    )
    model = BertForMaskedLM(config).double().eval()
    input_ids, attention_mask = padded
    labels = torch.full_like(input_ids, -100)
    for row, position in [(0, 1), (0, 4), (0, 7), (1, 2), (2, 1)]:
        labels[row, position] = input_ids[row, position]
    with torch.no_grad():
        outputs = model(
            input_ids.masked_fill(labels != -100, 3), attention_mask=attention_mask, labels=labels
        )
    return outputs.logits, labels, outputs.loss.double()


def test_masked_lm_loss_equals_the_models_own(masked):
    logits, labels, own = masked
    close(losses.masked_lm_loss(logits, labels), own, torch.float32)
    close(
        losses.masked_lm_loss(logits, labels), F.cross_entropy(logits.view(-1, 50), labels.view(-1))
    )


def test_masking_an_already_averaged_loss_is_another_number(masked, padded):
    """The well-known mistake: the loss is a mean over all positions before it is masked."""
    logits, labels, _ = masked
    input_ids, attention_mask = padded
    right = losses.masked_lm_loss(logits, labels)
    mask = (labels != -100).double()
    averaged = F.cross_entropy(logits.view(-1, 50), input_ids.view(-1))
    assert abs((averaged * mask).sum() / mask.sum() - right) > 0.05
    per_row = torch.stack(
        [losses.masked_lm_loss(logits[i : i + 1], labels[i : i + 1]) for i in range(3)]
    )
    assert abs(per_row.mean() - right) > 0.01  # rows hold 3, 1 and 1 labels
    padding_labelled = labels.masked_fill(attention_mask == 0, 0)
    assert abs(losses.masked_lm_loss(logits, padding_labelled) - right) > 0.05


def test_a_masked_lm_loss_is_not_shifted(masked):
    logits, labels, _ = masked
    shifted = losses.masked_lm_loss(logits[:, :-1], labels[:, 1:])
    assert abs(shifted - losses.masked_lm_loss(logits, labels)) > 0.05


# -- focal loss ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_focal_loss_without_focus_is_cross_entropy(dtype, reduction):
    logits, labels = draw(13, 4, dtype=dtype), classes(13, 4)
    labels[3] = -100
    close(
        losses.focal_loss(logits, labels, gamma=0.0, reduction=reduction),
        F.cross_entropy(logits, labels, reduction=reduction),
        dtype,
    )


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss_equals_the_papers_binary_formula(gamma):
    """Lin et al. write p = sigmoid(x); a softmax over the logits (0, x) is the same p."""
    x, y = draw(20, seed=3), classes(20, 2)
    p = torch.sigmoid(x)
    p_t = torch.where(y == 1, p, 1 - p)
    reference = -((1 - p_t) ** gamma) * torch.log(p_t)
    found = losses.focal_loss(
        torch.stack([torch.zeros_like(x), x], dim=-1), y, gamma, reduction="none"
    )
    close(found, reference)


def test_focal_loss_has_the_papers_gamma_of_2_unless_another_is_given():
    logits, labels = draw(9, 4), classes(9, 4)
    p = logits.softmax(-1)[torch.arange(9), labels]
    close(losses.focal_loss(logits, labels), (-((1 - p) ** 2) * p.log()).mean())
    close(losses.focal_loss(logits, labels, gamma=1.0), (-(1 - p) * p.log()).mean())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_agree_with_finite_differences(gamma):
    logits, labels = draw(4, 3, scale=1.0).requires_grad_(), classes(4, 3)
    assert torch.autograd.gradcheck(lambda z: losses.focal_loss(z, labels, gamma), (logits,))
    assert torch.autograd.gradcheck(lambda z: losses.cross_entropy(z, labels), (logits,))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_of_a_certain_answer_has_a_finite_gradient(gamma):
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    losses.focal_loss(logits, torch.tensor([0]), gamma).backward()
    assert logits.grad.isfinite().all()


def test_focal_loss_refuses_a_negative_gamma():
    with pytest.raises(InvalidValue, match="-1"):
        losses.focal_loss(torch.zeros(1, 2), torch.tensor([0]), gamma=-1)


# -- numbers made from losses --------------------------------------------------------------------


def test_perplexity_and_bits_per_byte_on_paper():
    assert losses.perplexity(math.log(50)) == pytest.approx(50, rel=1e-12)
    assert losses.perplexity(torch.tensor(0.0)) == 1.0
    assert losses.bits_per_byte(8 * math.log(2), 4) == pytest.approx(2.0, rel=1e-12)
    assert losses.bits_per_byte(math.log(8), 1) == pytest.approx(3.0, rel=1e-12)


def test_unigram_entropy():
    assert losses.unigram_entropy(torch.tensor([[3, 3], [3, 3]])) == 0.0
    assert losses.unigram_entropy(torch.tensor([7])) == 0.0
    assert losses.unigram_entropy(torch.arange(4)) == pytest.approx(math.log(4), rel=1e-12)
    ids = classes(1000, 20)
    p = torch.bincount(ids).double() / 1000
    best = F.cross_entropy(p.log().expand(1000, -1), ids).item()  # of the best constant model
    assert losses.unigram_entropy(ids) == pytest.approx(best, rel=1e-12)


# -- AdamW ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9), (0.0, 0.0), (0.9, 0.95)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01, 0.5])
def test_adamw_equals_torchs(dtype, betas, weight_decay):
    settings = {"betas": betas, "weight_decay": weight_decay}
    start = draw(7, 3, dtype=dtype, seed=5)
    theirs = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([theirs], lr=1e-2, eps=1e-8, **settings)
    mine, m, v = start, torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, 9):
        gradient = draw(7, 3, dtype=dtype, seed=10 + step, scale=10.0 ** (step % 4 - 2))
        theirs.grad = gradient.clone()
        optimizer.step()
        mine, m, v = losses.adamw_step(
            mine, gradient, m, v, step, learning_rate=1e-2, epsilon=1e-8, **settings
        )
        close(mine, theirs.detach(), dtype)
    close(start, draw(7, 3, dtype=dtype, seed=5), dtype)  # the arguments are left unchanged


def test_adamws_defaults_are_torchs():
    start = draw(6, seed=5)
    theirs = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([theirs], lr=0.1)
    mine, m, v = start, torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, 4):
        theirs.grad = draw(6, seed=20 + step, scale=1e-8)  # so small that epsilon counts
        optimizer.step()
        mine, m, v = losses.adamw_step(mine, theirs.grad, m, v, step, learning_rate=0.1)
        close(mine, theirs.detach())


def test_the_first_step_has_the_size_of_the_learning_rate():
    start, zero = torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    gradient = torch.tensor([1e-3, -1e-1, 1.0, -10.0, 1e4], dtype=torch.float64)
    moved, _, _ = losses.adamw_step(
        start, gradient, zero, zero, 1, learning_rate=1e-3, weight_decay=0.0
    )
    torch.testing.assert_close(moved, -1e-3 * gradient.sign(), rtol=1e-4, atol=0.0)


def test_decay_inside_the_gradient_is_another_optimiser():
    """L2 in the gradient (Adam) and decoupled decay (AdamW) part at the first step."""
    start, zero = draw(5, seed=7), torch.zeros(5, dtype=torch.float64)
    gradient = draw(5, seed=8)
    settings = {"learning_rate": 1e-2, "betas": (0.9, 0.999), "epsilon": 1e-8}
    decoupled, _, _ = losses.adamw_step(
        start, gradient, zero, zero, 1, weight_decay=0.5, **settings
    )
    l2, _, _ = losses.adamw_step(
        start, gradient + 0.5 * start, zero, zero, 1, weight_decay=0.0, **settings
    )
    theirs = torch.nn.Parameter(start.clone())
    theirs.grad = gradient.clone()
    torch.optim.Adam([theirs], lr=1e-2, weight_decay=0.5).step()
    close(l2, theirs.detach())
    assert (l2 - decoupled).abs().max() > 1e-3


def test_adamw_refuses_what_cannot_be():
    one = torch.ones(2)
    with pytest.raises(InvalidValue, match="step is 0"):
        losses.adamw_step(one, one, one, one, 0, learning_rate=0.1)


# -- consistency ---------------------------------------------------------------------------------


def test_consistency_is_half_the_sum_of_torchs_divergences():
    logits, again = torch.randn(2, 7, 4, dtype=torch.float64, requires_grad=True)
    p, q = logits.log_softmax(-1), again.log_softmax(-1)
    both = [
        torch.nn.functional.kl_div(a, b, log_target=True, reduction="batchmean")
        for a, b in ((p, q), (q, p))
    ]
    found = losses.consistency_loss(logits, again)
    assert found.item() == pytest.approx(sum(both).item() / 2, abs=1e-12)
    assert losses.consistency_loss(logits, logits).item() == 0.0
    assert torch.autograd.gradcheck(losses.consistency_loss, (logits, again))
