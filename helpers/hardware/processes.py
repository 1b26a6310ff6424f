"""A short run by several processes of this machine, in two ways, with what each process held.

Replicated (``training.fit``): every process holds the whole model, its gradients and its
optimiser state; only the batch is shared out. Sharded (``sharding``): those are shared out too.
Both give the losses of one process.

    torchrun --standalone --nproc_per_node 2 -m helpers.hardware.processes OUT
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from helpers import corpora, models
from helpers.batches import encode
from helpers.errors import CourseError, InvalidValue, unknown_name
from helpers.hardware.sharding import (
    fit_sharded,
    median_step,
    memory_of_a_step,
    shard,
    whole_weights,
)
from helpers.training import fit
from helpers.training.config import TrainingConfig

WAYS = ("replicated", "sharded")


@dataclass(frozen=True)
class Setting:
    """A short run on real messages, the same for every way.

    model: a name for ``models.load_classifier``; its dropout is set to 0. examples: of training.
    max_length: word pieces of a message at most. batch_size: over all processes.
    """

    model: str = "encoder"
    examples: int = 64
    max_length: int = 48
    batch_size: int = 16
    steps: int = 4
    learning_rate: float = 1e-4
    seed: int = 42

    def config(self) -> TrainingConfig:
        """As ``fit`` takes it; on the CPU unless there is a GPU for every process."""
        return TrainingConfig(
            epochs=1000,
            max_steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            seed=self.seed,
            device=_device_type(),
            precision="fp32",
            progress=False,
        )


@dataclass(frozen=True)
class Report:
    """What one process of a run tells.

    processes: how many took part, as they counted themselves. losses: of the global batch, one a
    step. step_seconds: the median, without the first step. held: bytes of parameters, gradients
    and optimizer state that this process keeps through a step. peak: the most bytes in use at
    once in a step.
    """

    way: str
    rank: int
    processes: int
    losses: list[float]
    step_seconds: float
    held: dict[str, int]
    peak: int


def run(setting: Setting, way: str = "replicated") -> tuple[Report, dict[str, Tensor]]:
    """Train in this process: alone, or as one of those that a launcher started.

    Returns the report and the whole final weights (CPU). Raises InvalidValue for an unknown way,
    or "sharded" without connected processes.
    """
    if way not in WAYS:
        raise unknown_name("way", way, WAYS)
    names, config = corpora.label_names("messages"), setting.config()
    rows = corpora.load("messages", examples=setting.examples, seed=setting.seed)["train"]
    tokenizer = models.load_tokenizer(setting.model)
    data = encode(tokenizer, list(rows["text"]), list(rows["label"]), max_length=setting.max_length)
    model: Any = models.load_classifier(setting.model, labels=names, seed=setting.seed, dropout=0.0)
    if way == "sharded":
        model = shard(model.to(_device_type()))
        losses, seconds = fit_sharded(model, data, config)
        count = distributed.get_world_size()
    else:
        clock: list[float] = []
        ticking = [lambda *_: clock.append(time.perf_counter())]
        history = fit(model, data, config=config, callbacks=ticking)
        losses, seconds, count = history.losses, median_step(clock), history.processes
    weights = whole_weights(model)
    if way == "replicated" and count > 1:
        model = nn.parallel.DistributedDataParallel(model)
    held, peak = memory_of_a_step(model, data, config)  # changes the weights
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    return Report(way, rank, count, losses, seconds, held, peak), weights


def launch(
    setting: Setting, out: Path, *, ways: Sequence[str] = WAYS, processes: int = 2
) -> dict[str, list[Report]]:
    """Start ``processes`` new ones on this machine, wait, and return each way's reports by rank.

    out: a folder; it receives {way}-{rank}.json, and {way}.safetensors, the final weights.
    Raises InvalidValue (processes below 1), and CourseError where they cannot be started or one
    fails; it has what they said.
    """
    if processes < 1:
        raise InvalidValue(f"processes is {processes}; it must be at least 1.")
    if sys.platform == "win32":
        raise CourseError(
            "PyTorch for Windows lacks the store that its launcher needs, so several processes "
            "cannot be started here. Use WSL, Linux or Colab."
        )
    options = [f"--{name}={value}" for name, value in asdict(setting).items()]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(processes), "-m", "helpers.hardware.processes", str(out)]
    done = subprocess.run(
        [*command, *options, "--ways", *ways],
        env={"OMP_NUM_THREADS": "1"} | os.environ,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        reasons = [line for line in said if line.startswith("helpers: ")] or said[-12:]
        raise CourseError(
            f"{processes} process(es) could not train together here. They said:\n"
            + "\n".join(dict.fromkeys(reasons))
        )
    return {
        way: [
            Report(**json.loads((out / f"{way}-{rank}.json").read_text(encoding="utf-8")))
            for rank in range(processes)
        ]
        for way in ways
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """One process of a run, every way in turn; it writes what ``launch`` reads."""
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(prog="helpers.hardware.processes", description=main.__doc__)
    parser.add_argument("out", type=Path, help="a folder for reports and weights")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    for field in fields(Setting):
        parser.add_argument(f"--{field.name}", type=field.type, default=field.default)
    options = vars(parser.parse_args(arguments))
    out, ways = options.pop("out"), options.pop("ways")
    out.mkdir(parents=True, exist_ok=True)
    _connect()
    for way in ways:
        report, weights = run(Setting(**options), way)
        text = json.dumps(asdict(report))
        (out / f"{way}-{report.rank}.json").write_text(text, encoding="utf-8")
        if report.rank == 0:
            save_file({k: v.contiguous() for k, v in weights.items()}, out / f"{way}.safetensors")
            losses = " ".join(f"{loss:.4f}" for loss in report.losses)
            print(f"{way}: {report.processes} processes, losses {losses}", flush=True)
    distributed.destroy_process_group()


def _connect() -> None:
    if "RANK" not in os.environ:
        raise InvalidValue(
            "this is one process by itself; start several with `python -m torch.distributed.run "
            "--standalone --nproc_per_node 2 -m helpers.hardware.processes OUT`."
        )
    on_gpu = _device_type() == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if on_gpu else "gloo")


def _device_type() -> str:
    """A GPU for each process of this machine, or the CPU for all."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return "cuda" if torch.cuda.device_count() >= local else "cpu"


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(f"helpers: {error}")
