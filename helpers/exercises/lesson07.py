"""Exercises of lesson 07: the first loss, the number of updates, a training loop, a prediction."""

import copy
import math
from typing import Any

import torch
from torch import nn

from helpers.exercises.question import Question


def _check_first_loss(answer: Any) -> str | None:
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        kind = type(answer).__name__
        return f"The answer should be a number, a loss in nats; yours is a {kind}."
    if abs(answer - math.log(5)) < 0.02:
        return None
    for value, mistake in (
        (math.log(2), "That is the loss of a coin: two classes. Here there are five topics."),
        (1 / 5, "That is the probability of each topic. The loss is minus its logarithm."),
        (0.8, "That is how often such a head errs. The loss is not the share of errors."),
        (-math.log(5), "The size is right; minus the logarithm of a number below 1 is positive."),
        (math.log2(5), "That is in bits. PyTorch's logarithm is the natural one, base e."),
        (math.log10(5), "That is the logarithm to base 10. PyTorch's is the natural one, base e."),
        (5, "Five is the number of topics. How probable does such a head think each of them?"),
    ):
        if abs(answer - value) < 0.005:
            return mistake
    return (
        f"Not {answer:g}. A head that knows nothing spreads its probability evenly over five "
        f"topics; the loss is minus the natural logarithm of what the right one gets."
    )


q1 = Question(
    id="07.1",
    title="the first loss",
    check=_check_first_loss,
    first_step="replace the three dots by the loss you expect; `math.log` may help.",
    hints=(
        "Before training no topic is preferred: how probable is the right one of five?",
        "The loss of one example is minus the natural logarithm of that probability.",
    ),
    solution="import math\n\nanswer = math.log(5)",
    passed="A first loss far from log C means that something is wrong before training begins.",
)


def _check_updates(answer: Any) -> str | None:
    cases = {(320, 16, 2): 40, (1000, 32, 3): 96, (10, 32, 1): 1, (64, 32, 2): 4, (7, 2, 1): 4}
    for (examples, batch_size, epochs), right in cases.items():
        found = answer(examples, batch_size, epochs)
        if found == right and isinstance(found, int):
            continue
        case = f"{examples} examples, batches of {batch_size}, {epochs} epoch(s)"
        if found == right:
            return f"For {case} it gives {found!r}: right, but updates are counted in whole ones."
        if found == examples // batch_size * epochs:
            return (
                f"For {case} it gives {found}: what does not fill a batch is left out. Our loops "
                f"train on that smaller last batch too."
            )
        if found == examples * epochs / batch_size:
            return f"For {case} it gives {found}: there is no part of an update. Round each epoch."
        if found == math.ceil(examples * epochs / batch_size):
            return (
                f"For {case} it gives {found}: as if a batch could reach over into the next epoch. "
                f"Each epoch ends with a batch of its own: round before you multiply."
            )
        return f"For {case} it gives {found!r}; there are {right} updates."
    return None


q2 = Question(
    id="07.2",
    title="how many updates",
    check=_check_updates,
    first_step="replace the three dots by the number of updates in one epoch, times the epochs.",
    hints=(
        "How many batches does it take to see 1,000 examples, 32 at a time? The last is smaller.",
        "`math.ceil` rounds up. Round the batches of one epoch, then multiply.",
    ),
    solution="""import math


def answer(examples, batch_size, epochs):
    return math.ceil(examples / batch_size) * epochs""",
    passed="This number decides how far weights can move, and it is what a schedule counts.",
)


class _Classifier(nn.Module):
    """A classifier of four numbers that behaves like a transformers model: it takes keywords,
    computes its own loss, has dropout and a ``config``, and starts in eval mode."""

    def __init__(self, id2label: dict[int, str]) -> None:
        super().__init__()
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(4, len(id2label))
        self.config = type("Config", (), {"id2label": id2label})()
        self.modes: list[tuple[bool, bool]] = []  # (training, gradients enabled) per call
        with torch.no_grad():
            self.head.weight.copy_(torch.arange(self.head.weight.numel()).view_as(self.head.weight))
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
        self.eval()

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **_: Any) -> Any:
        self.modes.append((self.training, torch.is_grad_enabled()))
        logits = self.head(self.dropout(input_ids.float()))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return type("Output", (), {"loss": loss, "logits": logits})()


def _batches() -> list[dict[str, torch.Tensor]]:
    numbers = torch.tensor([[1, 0, 2, 0], [0, 2, 0, 1], [1, 1, 0, 0], [0, 0, 1, 2]])
    return [
        {"input_ids": numbers + step, "labels": torch.tensor([0, 1, 0, 1])} for step in range(3)
    ]


def _train(model: "_Classifier", *, clear: bool = True, steps: int = 3) -> torch.Tensor:
    """The weights after ``steps`` right updates; without ``clear``, gradients pile up."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(0)
    for batch in _batches()[:steps]:
        model(**batch).loss.backward()
        optimizer.step()
        if clear:
            optimizer.zero_grad()
    return model.head.weight.detach().clone()


def _check_loop(answer: Any) -> str | None:
    start = _Classifier({0: "no", 1: "yes"})
    model = copy.deepcopy(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        losses = answer(model, _batches(), optimizer)
        right = _train(copy.deepcopy(start))
        piled = _train(copy.deepcopy(start), clear=False)
        single = _train(copy.deepcopy(start), steps=1)
    weights = model.head.weight.detach()
    if not model.modes:
        return "The model was never called. Each batch goes in as `model(**batch)`."
    if not all(training for training, _ in model.modes):
        return (
            "The model ran in eval mode, so its dropout was off. `from_pretrained` leaves models "
            "so: call `model.train()` before the loop."
        )
    if torch.equal(weights, start.head.weight):
        return "No weight has changed. After `backward()` the optimizer must take its `step()`."
    if torch.allclose(weights, piled) and not torch.allclose(weights, right):
        return (
            "Every gradient was added to those before it: this is the loop that forgot "
            "`optimizer.zero_grad()`."
        )
    if torch.allclose(weights, single):
        return "Only the first batch was learned from. Is the `return` inside the loop?"
    if not torch.allclose(weights, right):
        return (
            "The weights end elsewhere. For each batch, once and in this order: loss, "
            "`backward()`, `step()`, `zero_grad()`."
        )
    if not isinstance(losses, list) or len(losses) != 3:
        return "The weights are right. Return a list with the loss of each batch."
    if any(isinstance(loss, torch.Tensor) for loss in losses):
        return (
            "The weights are right, but the losses are tensors, which keep their graphs alive in "
            "memory. Append `loss.item()`, a plain number."
        )
    return None


q3 = Question(
    id="07.3",
    title="write the loop",
    check=_check_loop,
    first_step=(
        "start with `losses = []` and `model.train()`, then `for batch in batches:`; end with "
        "`return losses`."
    ),
    hints=(
        "Steps 4 and 5 of the six: `loss = model(**batch).loss`, then three calls.",
        "The three calls are `loss.backward()`, `optimizer.step()` and `optimizer.zero_grad()`.",
        "Collect `loss.item()`: a plain number instead of a tensor with its graph.",
    ),
    solution="""def answer(model, batches, optimizer):
    losses = []
    model.train()
    for batch in batches:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses""",
    passed="The weights equal those of a reference loop. Every trainer you will meet holds it.",
)

_TEXTS = ["aaa", "b", "cc", "dddd"]


class _Tokenizer:
    """Turns a text into four numbers; tensors and padding must be asked for, as with a real one."""

    def __call__(self, texts: Any, **options: Any) -> dict[str, Any]:
        if options.get("return_tensors") != "pt":
            return {"input_ids": [[len(text)] for text in texts]}
        if not options.get("padding"):
            raise ValueError("texts of different lengths do not fit one tensor: set padding=True")
        rows = [[1, 0, 0, 4] if len(text) % 2 else [0, 3, 0, 0] for text in texts]
        return {"input_ids": torch.tensor(rows)}


def _check_prediction(answer: Any) -> str | None:
    # Class 0 is the positive one here: the order of labels belongs to the model.
    model = _Classifier({0: "positive", 1: "negative"})
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[0.0, 0, 0, 1.0], [0, 1.0, 0, 0]]))
    right = ["positive", "positive", "negative", "negative"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        found = answer(model.train(), _Tokenizer(), list(_TEXTS))
    if not model.modes:
        return "The model was never called: tokenize the texts, then call `model(**inputs)`."
    if any(training for training, _ in model.modes):
        return (
            "The model predicted in train mode: dropout removes parts of it at random, and the "
            "answers change from call to call. Call `model.eval()` first."
        )
    if any(gradients for _, gradients in model.modes):
        return "It works, but keeps what a gradient would need. Wrap the call in `torch.no_grad()`."
    if isinstance(found, torch.Tensor):
        return "That is a tensor of numbers. Give the names of the classes, as a list of strings."
    found = list(found)
    if found == right:
        return None
    if len(found) != len(right):
        return f"{len(right)} texts went in and {len(found)} answers came out."
    if found == ["negative" if name == "positive" else "positive" for name in right]:
        return (
            "Every answer is the opposite of the right one: in this model class 0 is 'positive'. "
            "Do not assume an order of labels; ask `model.config.id2label`."
        )
    if all(isinstance(name, int | torch.Tensor) for name in found):
        return "Those are class numbers. Translate each with `model.config.id2label`."
    return f"For four texts it gave {found}; the largest logits say {right}."


q4 = Question(
    id="07.4",
    title="predict safely",
    check=_check_prediction,
    first_step="call `model.eval()`, then tokenize the texts as in step 3 of the six.",
    hints=(
        "`with torch.no_grad():` around `logits = model(**inputs).logits`.",
        "`logits.argmax(dim=-1).tolist()` gives class numbers; `model.config.id2label` the names.",
    ),
    solution="""import torch


def answer(model, tokenizer, texts):
    model.eval()
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    return [model.config.id2label[number] for number in logits.argmax(dim=-1).tolist()]""",
    passed="Eval mode, no gradients, the model's own names: three slips you will not make.",
)
