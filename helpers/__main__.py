"""The command line: ``python -m helpers doctor | fetch | train | evaluate | bundle``.

Exit status: 0 done; 1 something failed, and the message says what to do; 2 the call itself was
wrong (an unknown name, a value out of range); 130 stopped from the keyboard.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.errors import CourseError, InvalidValue


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. ``arguments`` default to the command line's."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
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


def _say(line: str) -> None:
    if int(os.environ.get("RANK", "0")) == 0:
        print(line, flush=True)


def _doctor(options: argparse.Namespace) -> int:
    from helpers import doctor

    checks = doctor.diagnose()
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<{width}}  {check.value}")
        if check.remedy:
            print(f"      {'':<{width}}  -> {check.remedy}")
    failed = sum(not check.ok for check in checks)
    print(f"\n{failed} of {len(checks)} checks failed." if failed else "\nAll is well.")
    return 1 if failed else 0


def _fetch(options: argparse.Namespace) -> int:
    from helpers import assets, catalog

    known = catalog.load_catalog()
    names = options.names or [name for name, asset in known.items() if "quick" in asset.profiles]
    for name in names:
        catalog.get(name)
    for name in names:
        folder = assets.fetch(name)
        print(f"{name}: {known[name].title}\n    verified in {folder}")
    return 0


def _bundle(options: argparse.Namespace) -> int:
    from helpers import assets

    wheels = assets.bundle(options.folder)
    size = sum(wheel.stat().st_size for wheel in wheels) / 1e6
    print(f"{len(wheels)} files, {size:.0f} MB, in {options.folder}. On each learner's machine:")
    print(
        f"    set PIP_FIND_LINKS to that folder's path and PIP_NO_INDEX to 1, then run\n"
        f"    {Path(sys.executable).name} -m helpers fetch"
    )
    return 0


def _train(options: argparse.Namespace) -> int:
    from helpers.tasks import classification

    classification.get_task(options.task)
    metrics = classification.train_task(
        options.task,
        out=options.out or Path("runs") / options.task,
        model=options.model,
        examples=options.examples,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        lora_rank=options.lora,
        lora_alpha=options.lora_alpha,
        seed=options.seed,
        max_steps=options.max_steps,
        checkpoint_every=options.checkpoint_every,
        resume=options.resume,
        say=_say,
    )
    if metrics is not None:
        print(_table(metrics))
        processes = metrics["processes"]
        print(
            f"\n{metrics['train_seconds']:.0f} s of training, "
            f"{metrics['examples_per_second']:.1f} examples/s, {processes} "
            f"process{'es' if processes > 1 else ''} took part. "
            f"Saved in {options.out or Path('runs') / options.task}."
        )
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from helpers.tasks import classification

    print(_table(classification.evaluate_saved(options.folder, options.task)))
    return 0


def _table(metrics: dict[str, Any]) -> str:
    """The test scores beside their baselines, with 95 % intervals, as text."""
    rows = {"fine-tuned": metrics["test"]} | {
        "TF-IDF + logistic regression": metrics["baseline"]["tfidf_logreg"],
        "majority class": metrics["baseline"]["majority"],
    }
    classes = list(metrics["test"]["per_class"])
    shown = classes if len(classes) > 2 else classes[-1:]
    header = ["test set", "accuracy", "macro F1", *(f"F1 {name}" for name in shown)]
    lines = []
    for name, scores in rows.items():
        cells = [
            _with_interval(scores["accuracy"], scores["accuracy_interval"]),
            _with_interval(scores["macro_f1"], scores["macro_f1_interval"]),
        ]
        for label in shown:
            values = scores["per_class"][label]
            cells.append(
                _with_interval(values["f1"], values["f1_interval"])
                if len(shown) == 1
                else f"{values['f1']:.3f}"
            )
        lines.append([name, *cells])
    widths = [max(len(row[i]) for row in [header, *lines]) for i in range(len(header))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *lines]
    ]
    counted = metrics["baseline"]["tfidf_logreg"]
    if counted["macro_f1"] > metrics["test"]["macro_f1"]:
        low, high = metrics["test"]["macro_f1_interval"]
        clearly = "" if low <= counted["macro_f1"] <= high else " clearly"
        table += [
            "",
            f"Counting words does{clearly} better here: where single words give the class away, a "
            "transformer has",
            "little to add and many more weights to fit. Lesson 08 shows how to compare the two.",
        ]
    return "\n".join(table)


def _with_interval(value: float, interval: Sequence[float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers", description="Check, fetch, train and evaluate."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="will the course work here? If not, what to do")
    doctor.set_defaults(run=_doctor)

    fetch = commands.add_parser("fetch", help="fetch and verify models and data")
    fetch.add_argument("names", nargs="*", metavar="NAME", help="default: all of the quick profile")
    fetch.set_defaults(run=_fetch)

    bundle = commands.add_parser("bundle", help="put all assets in one folder for a workshop")
    bundle.add_argument("folder", type=Path, metavar="DIR")
    bundle.set_defaults(run=_bundle)

    train = commands.add_parser(
        "train",
        help="fine-tune on a task and judge the result",
        epilog="Several processes: torchrun --nproc_per_node 2 -m helpers train news",
    )
    train.add_argument("task", metavar="TASK", help="news, messages or reviews")
    train.add_argument("--model", metavar="NAME", help="catalogue name or folder")
    train.add_argument("--examples", type=int, metavar="N", help="training texts to use")
    train.add_argument("--epochs", type=int, metavar="N")
    train.add_argument("--learning-rate", type=float, metavar="X")
    train.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="texts of one step, over all processes (default: 32; reviews 16)",
    )
    train.add_argument(
        "--lora", type=int, metavar="RANK", help="train an adapter and the head, not all weights"
    )
    train.add_argument(
        "--lora-alpha",
        type=float,
        metavar="X",
        help="its scale is X / RANK (default: RANK times 2)",
    )
    train.add_argument("--seed", type=int, default=42, metavar="S")
    train.add_argument("--max-steps", type=int, metavar="N", help="stop after so many steps")
    train.add_argument("--checkpoint-every", type=int, metavar="N", help="steps")
    train.add_argument("--out", type=Path, metavar="DIR", help="default: runs/TASK")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="judge a saved model again")
    evaluate.add_argument("folder", type=Path, metavar="DIR", help="what train wrote")
    evaluate.add_argument("task", metavar="TASK")
    evaluate.set_defaults(run=_evaluate)
    return parser


if __name__ == "__main__":
    sys.exit(main())
