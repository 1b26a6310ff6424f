"""A task's plan as the text that ``python -m helpers plan`` prints."""

from collections.abc import Sequence

from helpers.hardware.gpus import GB, RESERVE
from helpers.hardware.task_plan import MEASURED_STEPS, OnCard, TaskPlan

_MB = 10**6
UNCHECKED = ("fp16", "bf16")  # precisions in which no plan was compared with a card's memory


def render(planned: TaskPlan) -> str:
    """Settings, memory, operations, time here, and the table of cards."""
    parts = (_settings(planned), _memory(planned), _operations(planned), _cards(planned))
    return "\n\n".join(parts)


def duration(seconds: float) -> str:
    """Such as "below 0.1 s", "0.4 s", "12 s", "3 min 05 s" and "2 h 10 min"."""
    if seconds < 0.1:
        return "below 0.1 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def _settings(planned: TaskPlan) -> str:
    plan, settings = planned.plan, planned.plan.settings
    trained = "all of them trained"
    if settings.lora_rank is not None:
        trained = f"{plan.trainable_count:,} trained (LoRA, rank {settings.lora_rank})"
    texts = f"{planned.batch_size} texts"
    if planned.passes > 1:
        texts += f", each {planned.passes} times under different dropout"
    again = ", activations made again (checkpointing)" if settings.checkpointing else ""
    rows = {
        planned.task: f"{planned.examples:,} training texts, {planned.epochs:g} "
        f"epoch{'s' if planned.epochs != 1 else ''}, {planned.steps:,} steps",
        "model": f"{plan.model}, {plan.parameter_count / 1e6:.1f} M parameters, {trained}",
        "step": texts,
        "texts": f"{settings.sequence_length} tokens at most, {planned.mean_width:.1f} on average, "
        "padding included",
        "here": f"{planned.device}, {settings.precision}, AdamW{again}",
    }
    return "\n".join(aligned(list(rows.items())))


def _memory(planned: TaskPlan) -> str:
    plan = planned.plan
    rows = (
        ("parameters", plan.parameters, ""),
        ("gradients", plan.gradients, ""),
        ("optimiser state", plan.optimizer_state, ""),
        ("activations", plan.activations, "kept for the backward pass"),
        ("peak", plan.peak, f"{_where(plan.peak_at)}; not every kind is at its most then"),
        ("prediction alone", plan.inference_peak, "the same batch without gradients"),
    )
    lines = [f"{'memory of the largest step':<26}  {'MB':>9}"]
    for name, size, note in rows:
        lines.append(f"  {name:<24}  {size / _MB:>9,.1f}  {note}".rstrip())
    return "\n".join(lines)


def _where(place: str) -> str:
    phase, _, part = place.partition(" ")
    part = part if part.startswith("layer ") else f"the {part}"
    return f"in the {phase} pass of {part}" if phase != "update" else "in the update"


def _operations(planned: TaskPlan) -> str:
    each = planned.flops / planned.steps
    lines = [
        f"operations: {_flops(each)} a step on average, {_flops(planned.flops)} in all "
        "(a multiply-add is two)",
    ]
    if planned.here is None or planned.rate is None:
        lines.append(f"time here: not measured; --measure times {MEASURED_STEPS - 1} steps")
    else:
        lines.append(
            f"time here: about {duration(planned.here.seconds)}, at {planned.rate / 1e9:.1f} "
            f"GFLOP/s measured over {MEASURED_STEPS - 1} steps; evaluations come on top"
        )
    return "\n".join(lines)


def _flops(number: float) -> str:
    for name, size in (("PFLOP", 1e15), ("TFLOP", 1e12)):
        if number >= size:
            return f"{number / size:,.1f} {name}"
    return f"{number / 1e9:,.1f} GFLOP"


def _cards(planned: TaskPlan) -> str:
    priced = any(each.run and each.run.cost is not None for each in planned.cards)
    header = ["card", "memory", "precision", "fits", "most texts", "time", *(["cost"] * priced)]
    rows = [header, *(_row(each, priced) for each in planned.cards)]
    notes = [
        f"Fits: beside {RESERVE / GB:g} GB for CUDA and gaps (assumed). Most texts: of the longest "
        "length, in one step.",
        f"Time: at {planned.utilisation:.0%} of the card's peak (assumed) and its memory bandwidth."
        " Small models",
        "in small batches take longer: the card waits for Python. What a real card does: "
        "doctor --gpu",
    ]
    if any(each.precision in UNCHECKED for each in planned.cards):
        notes.append(
            "Memory in fp16 or bf16 on a card: an unchecked prediction. It was measured on no card "
            "yet; doctor --gpu"
        )
        notes.append("measures it on yours. Leave some to spare.")
    return "\n".join([*aligned(rows), "", *notes])


def _row(each: OnCard, priced: bool) -> list[str]:
    card, run = each.fit.card, each.run
    row = [
        card.name,
        f"{card.memory / GB:.0f} GB",
        each.precision,
        f"{'yes' if each.fit.fits else 'no'}, {each.fit.reason}",
        f"{each.largest_batch:,}",
        duration(run.seconds) if run else "-",
    ]
    if priced:
        row.append(f"{run.cost:.4f}" if run else "-")
    return row


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Each row as a line, its columns two spaces apart and flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
