"""Train tiny random models; what the tests run in processes of their own.

Usage: train_script.py OUT [NAME=JSON ...]. Names are settings of TrainingConfig, or:
tasks: of "classifier" and "masked", one run each. examples: of the data. dropout,
attention_dropout: of the model.
pause: seconds after every step. interrupt_at: break off at this step, then resume.
die_before: end the process as ``kill -9`` does, before it calls this function of os.
OUT receives the final weights and history of every process.
"""

import json
import os
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import tiny
import torch
from safetensors.torch import save_file

from helpers.batches import MaskedTexts, encode
from helpers.training import TrainingConfig, fit


def prepare(task: str, examples: int, settings: dict[str, float]):
    if task == "classifier":
        return tiny.classifier(**settings), tiny.encoded(examples), tiny.encoded(30, seed=1)
    tokenizer = tiny.tokenizer()
    splits = [encode(tokenizer, tiny.texts(count, seed=count)) for count in (examples, 30)]
    return tiny.masked_model(**settings), *(MaskedTexts(split, tokenizer) for split in splits)


def die_before(call: str) -> None:
    """Die where a checkpoint is written: before os.fsync (with half of the file on the disk),
    os.replace or os.unlink is first called."""

    def die(target: int, *rest) -> None:
        if call == "fsync":
            os.ftruncate(target, os.fstat(target).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, call, die)


class Interrupted(Exception):
    pass


def main(out: Path, options: dict) -> None:
    torch.set_num_threads(1)
    tasks, pause = options.pop("tasks", ["classifier"]), options.pop("pause", 0)
    examples, names = options.pop("examples", 60), ("dropout", "attention_dropout")
    settings = {name: options.pop(name) for name in names if name in options}
    last = options.pop("interrupt_at", None)
    if "die_before" in options:
        die_before(options.pop("die_before"))
    plain = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-3, "progress": False}
    config = TrainingConfig(**plain | options)

    def callback(step: int, *rest) -> None:
        time.sleep(pause)
        if step == last and not config.resume:
            raise Interrupted

    for task in tasks:
        try:
            model, *data = prepare(task, examples, settings)
            history = fit(model, *data, config, callbacks=[callback])
        except Interrupted:
            config = replace(config, resume=True)
            model, *data = prepare(task, examples, settings)
            history = fit(model, *data, config, callbacks=[callback])
        name = f"{task}-{os.environ.get('RANK', '0')}"
        save_file(dict(model.named_parameters()), out / f"{name}.safetensors")
        (out / f"{name}.json").write_text(json.dumps(asdict(history)), encoding="utf-8")


if __name__ == "__main__":
    pairs = (argument.split("=", 1) for argument in sys.argv[2:])
    main(Path(sys.argv[1]), {name: json.loads(value) for name, value in pairs})
