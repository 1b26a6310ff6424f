"""The commands that come after training: predict, card, push, demo and capstone."""

import argparse
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any


def add_commands(commands: Any) -> None:
    """Add the parsers to what ``add_subparsers`` returned; each sets ``run``, a function of the
    options that returns the exit status, or None for 0."""
    predict = commands.add_parser("predict", help="label every row of a table")
    predict.add_argument("folder", type=Path, metavar="DIR", help="what train wrote")
    predict.add_argument("source", type=Path, metavar="FILE", help=".csv, .tsv, .jsonl or .gz")
    predict.add_argument("--out", type=Path, metavar="FILE", help="default: FILE with .predicted")
    column_help = "default: the one it was trained on, or text"
    predict.add_argument("--text-column", metavar="NAME", help=column_help)
    predict.add_argument("--chunk-rows", type=int, default=512, metavar="N", help="rows in memory")
    predict.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    predict.set_defaults(run=_predict)

    card = commands.add_parser("card", help="write the model card of a finished run")
    card.add_argument("folder", type=Path, metavar="DIR", help="what train wrote")
    asked = {"required": True, "metavar": "TEXT"}
    card.add_argument("--use", dest="intended_use", help="what the model is for", **asked)
    card.add_argument("--not-for", dest="out_of_scope", help="what it is not for", **asked)
    card.add_argument("--name", metavar="NAME", help="default: the folder's")
    data_help = "where your own texts come from, whose they are"
    card.add_argument("--data", metavar="TEXT", help=data_help)
    card.add_argument("--licence", default="apache-2.0", metavar="NAME")
    card.add_argument("--language", default="en", metavar="CODE")
    card.set_defaults(run=_card)

    push = commands.add_parser("push", help="put a finished model on the Hugging Face Hub")
    push.add_argument("folder", type=Path, metavar="DIR", help="what train wrote")
    push.add_argument("repository", metavar="OWNER/NAME")
    push.add_argument("--dry-run", action="store_true", help="show what would go, send nothing")
    push.add_argument("--public", action="store_true", help="a new repository for all to see")
    push.set_defaults(run=_push)

    demo = commands.add_parser("demo", help="a page on this computer to try the model in")
    demo.add_argument("folder", type=Path, metavar="DIR", help="what train wrote")
    demo.add_argument("--port", type=int, metavar="N", help="default: a free one")
    log_help = "keep texts, answers and corrections"
    demo.add_argument("--log", type=Path, metavar="FILE", help=log_help)
    demo.set_defaults(run=_demo)

    capstone = commands.add_parser("capstone", help="check a finished project against the rubric")
    capstone.add_argument("folder", type=Path, metavar="DIR")
    capstone.set_defaults(run=_capstone)


def _predict(options: argparse.Namespace) -> None:
    from helpers.corpora.tables import split_name
    from helpers.shipping.batch_prediction import predict_file

    source = options.source
    stem, kind = split_name(source)
    out = options.out or source.with_name(f"{stem}.predicted{kind}")
    summary = predict_file(
        options.folder,
        source,
        out,
        text_column=options.text_column,
        chunk_rows=options.chunk_rows,
        resume=options.resume,
        say=partial(print, flush=True),
    )
    given = ", ".join(f"{count:,} {label}" for label, count in summary.labels.items())
    print(
        f"{summary.rows:,} rows in {out}: {given or 'no labels'}\n"
        f"{summary.empty:,} without a text, {summary.truncated:,} cut to what the model reads; "
        f"mean probability {summary.mean_confidence:.3f}"
    )
    if summary.replaced:
        print(f"{summary.replaced:,} halves of characters (lone surrogates) became U+FFFD")


def _card(options: argparse.Namespace) -> None:
    from helpers.shipping import model_card

    options.name = options.name or options.folder.resolve().name
    names = [field.name for field in dataclasses.fields(model_card.Description)]
    description = model_card.Description(**{name: getattr(options, name) for name in names})
    path = model_card.write_card(options.folder, description)
    print(f"written: {path}\nRead it before you push: every sentence of it is yours.")


def _push(options: argparse.Namespace) -> None:
    from huggingface_hub import ModelCard

    from helpers.files import model_folder
    from helpers.shipping import hub

    if not options.dry_run:
        where = hub.push(options.folder, options.repository, public=options.public)
        print(f"pushed: {where}")
        return
    planned = hub.plan(options.folder)
    width = max(len(file.path) for file in planned)
    for file in planned:
        print(f"{file.path:<{width}}  {file.size:>12,} bytes  sha256 {file.sha256[:16]}...")
    card = ModelCard.load(model_folder(options.folder) / "README.md").data
    print(f"card: {card.pipeline_tag}, language {card.language}, licence {card.license}")
    for score in card.eval_results:
        print(f"      {score.metric_name}: {score.metric_value}")
    print(
        f"{len(planned)} files, {sum(file.size for file in planned) / 1e6:.1f} MB, would go to "
        f"{options.repository} ({'public' if options.public else 'private'}, if it is new). "
        f"Nothing was sent."
    )


def _demo(options: argparse.Namespace) -> None:
    from helpers.shipping import demo

    with demo.serve(options.folder, port=options.port, log=options.log) as address:
        print(f"{address}  (on this computer alone; stop with Ctrl+C)", flush=True)
        demo.wait()


def _capstone(options: argparse.Namespace) -> int:
    from helpers.shipping import capstone

    report = capstone.judge(options.folder)
    print(report)
    return 0 if report.complete else 1
