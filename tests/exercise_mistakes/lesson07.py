"""Wrong answers that a learner might well give in lesson 07."""

_LOOP = """def answer(model, batches, optimizer):
    losses = []
    {mode}
    for batch in batches:
        loss = model(**batch).loss
        {body}
        losses.append(loss{item})
    return losses
"""


def _loop(body: str, mode: str = "model.train()", item: str = ".item()") -> str:
    return _LOOP.format(mode=mode, body=body.replace("; ", "\n        "), item=item)


_PREDICT = """import torch

def answer(model, tokenizer, texts):
    {mode}
    inputs = tokenizer(texts{options})
    with torch.{context}():
        logits = model(**inputs).logits
    return {result}
"""


def _predict(
    mode: str = "model.eval()",
    options: str = ", padding=True, return_tensors='pt'",
    context: str = "no_grad",
    result: str = "[model.config.id2label[i] for i in logits.argmax(-1).tolist()]",
) -> str:
    return _PREDICT.format(mode=mode, options=options, context=context, result=result)


MISTAKES = {
    "q1": [
        "import math\nanswer = math.log(2)",
        "answer = 1 / 5",
        "answer = 0.8",
        "import math\nanswer = -math.log(5)",
        "import math\nanswer = math.log2(5)",
        "answer = 5",
        "answer = 'high'",
    ],
    "q2": [
        "def answer(examples, batch_size, epochs):\n    return examples // batch_size * epochs",
        "def answer(examples, batch_size, epochs):\n    return examples / batch_size * epochs",
        "import math\n"
        "def answer(examples, batch_size, epochs):\n"
        "    return math.ceil(examples * epochs / batch_size)",
        "def answer(examples, batch_size, epochs):\n    return examples * epochs",
        "answer = 96",
    ],
    "q3": [
        # No zero_grad: gradients pile up.
        _loop("loss.backward(); optimizer.step()"),
        # No step.
        _loop("loss.backward(); optimizer.zero_grad()"),
        # The gradient is thrown away before it is used.
        _loop("loss.backward(); optimizer.zero_grad(); optimizer.step()"),
        # Left in eval mode.
        _loop("loss.backward(); optimizer.step(); optimizer.zero_grad()", mode="model.eval()"),
        # Two updates a batch.
        _loop("loss.backward(); optimizer.step(); optimizer.step(); optimizer.zero_grad()"),
        # Tensors that keep their graphs.
        _loop("loss.backward(); optimizer.step(); optimizer.zero_grad()", item=""),
        # The return inside the loop.
        "def answer(model, batches, optimizer):\n"
        "    model.train()\n"
        "    for batch in batches:\n"
        "        loss = model(**batch).loss\n"
        "        loss.backward()\n"
        "        optimizer.step()\n"
        "        optimizer.zero_grad()\n"
        "        return [loss.item()]\n",
        "answer = [0.7, 0.6, 0.5]",
    ],
    "q4": [
        _predict(mode="model.train()"),
        _predict(mode="pass"),
        _predict(context="enable_grad"),
        _predict(result="[['negative', 'positive'][i] for i in logits.argmax(-1).tolist()]"),
        _predict(result="logits.argmax(-1)"),
        _predict(result="logits.argmax(-1).tolist()"),
        _predict(options=", return_tensors='pt'"),
        _predict(options=", padding=True"),
    ],
}
