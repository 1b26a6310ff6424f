"""What every lesson must hold: each rule yields a sentence for each thing that breaks it."""

import ast
import importlib.util
import io
import re
import statistics
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
IGNORED = "nbval-ignore-output"
FIRST_CELL = ("## You will be able to", "## Before this", "## Time")
HEADINGS = ("Recap", "Further reading")
WORDS = (2000, 4500)
START_WORDS = (900, 3000)
MODULES = 12
BOUND = re.compile(
    r"\b(?:above|below|at least|at most|under|over|more than|less than)\s+[$`*]*"
    r"(\d[\d,]*\.\d+)",
    re.IGNORECASE,
)
OUTPUT_FAULTS = {
    "a path of the machine": re.compile(r"/(?:root|tmp|home|Users|work)/|\b[A-Z]:\\"),
    "a warning": re.compile(r"warning", re.IGNORECASE),
    "a progress bar": re.compile(r"[█▉▏]|\d+%\||\bit/s\b|\bs/it\b"),
    "a memory address": re.compile(r"\b0x[0-9a-f]{6,}"),
}


def _load_tool():
    spec = importlib.util.spec_from_file_location("notebooks_tool", ROOT / "tools/notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = _load_tool()


@dataclass(frozen=True)
class Lesson:
    """A notebook with what the rules ask of it."""

    name: str
    notebook: NotebookNode

    @classmethod
    def read(cls, path: Path) -> "Lesson":
        # Not nbformat.read: that mends faulty cell ids instead of showing them.
        return cls(path.name, nbformat.v4.reads(path.read_text(encoding="utf-8")))

    @property
    def number(self) -> str:
        return self.name[:2]

    @cached_property
    def code(self) -> list[NotebookNode]:
        return [cell for cell in self.notebook.cells if cell.cell_type == "code"]

    @cached_property
    def lesson_code(self) -> list[NotebookNode]:
        return [cell for cell in self.code if "setup" not in tags(cell)]

    @cached_property
    def prose_cells(self) -> list[str]:
        return [cell.source for cell in self.notebook.cells if cell.cell_type == "markdown"]

    @cached_property
    def prose(self) -> str:
        return "\n\n".join(self.prose_cells)


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def output_text(cell: NotebookNode) -> str:
    """All that a cell stored as text, of every kind."""
    parts = []
    for output in cell.outputs:
        parts.append(output.get("text", ""))
        data = output.get("data", {})
        parts.extend(str(data[kind]) for kind in data if kind.startswith("text/"))
        parts.extend(output.get("traceback", []))
    return "\n".join(parts)


def anatomy(lesson: Lesson) -> Iterator[str]:
    cells = lesson.notebook.cells
    first = cells[0].source
    if not re.match(rf"# {lesson.number} \S", first):
        yield f"the first line is not '# {lesson.number} Title'"
    if tool.badge(lesson.name) not in first.split("\n"):
        yield "the Colab badge is missing or differs: run tools/notebooks.py sync"
    for heading in FIRST_CELL:
        if not re.search(rf"^{heading}", lesson.prose, re.MULTILINE):
            yield f"there is no section '{heading}'"
    if len(cells) < 2 or tags(cells[1]) != ["setup"] or cells[1].source != tool.setup_source():
        yield "the second cell is not the set-up cell: run tools/notebooks.py sync"
    code = "\n".join(cell.source for cell in lesson.code)
    if len(set(re.findall(r"\b(q\d+)\.check\(", code))) < 3:
        yield "there are fewer than three exercises"
    if f'quiz("{lesson.number}")' not in code:
        yield f'there is no quiz("{lesson.number}")'
    for heading in HEADINGS:
        if not re.search(rf"^#+ .*{heading}", lesson.prose, re.MULTILINE | re.IGNORECASE):
            yield f"there is no section '{heading}'"


def plain_python(lesson: Lesson) -> Iterator[str]:
    for cell in lesson.code:
        try:
            ast.parse(cell.source)
        except SyntaxError as error:
            yield f"not plain Python (a magic?): {error.text or cell.source!r}"
        # nbval compares with a kernel in which a closing semicolon hides nothing.
        if cell.source.rstrip().endswith(";") and IGNORED not in tags(cell):
            yield f"a compared cell ends with a semicolon; assign instead: {cell.source[-40:]!r}"


def few_modules(lesson: Lesson) -> Iterator[str]:
    """A reader keeps about a dozen names in mind: folders hand on what lessons need."""
    modules = set()
    for cell in lesson.lesson_code:
        try:
            nodes = list(ast.walk(ast.parse(cell.source)))
        except SyntaxError:  # plain_python reports it
            continue
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "helpers":
                folder = ROOT / node.module.replace(".", "/")
                for name in node.names:
                    inside = [folder / f"{name.name}.py", folder / name.name / "__init__.py"]
                    is_module = any(path.is_file() for path in inside)
                    modules.add(f"{node.module}.{name.name}" if is_module else node.module)
    if len(modules) > MODULES:
        yield f"imports {len(modules)} helpers modules, {MODULES} at most: {sorted(modules)}"


def outputs(lesson: Lesson) -> Iterator[str]:
    for cell in lesson.code:
        start = cell.source.strip().split("\n")[0]
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"an error is stored under: {start}"
            if output.get("name") == "stderr":
                yield f"standard error is stored under: {start}"
        text = output_text(cell)
        for what, pattern in OUTPUT_FAULTS.items():
            if found := pattern.search(text):
                yield f"{what} ({found.group()!r}) is stored under: {start}"
        if "nbval-skip" in tags(cell):
            yield f"nbval-skip: not tested at all: {start}"


def stored_as_run(lesson: Lesson) -> Iterator[str]:
    counts = [cell.execution_count for cell in lesson.code]
    if counts != list(range(1, len(counts) + 1)):
        yield f"not executed from top to bottom: {counts}"
    if "widgets" in lesson.notebook.metadata:
        yield "metadata.widgets is stored"
    ids = [cell.get("id") for cell in lesson.notebook.cells]
    if None in ids or len(set(ids)) < len(ids):
        yield "cell ids are missing or not unique"


def size(lesson: Lesson) -> Iterator[str]:
    if (stored := len(nbformat.v4.writes(lesson.notebook).encode())) >= 1_000_000:
        yield f"the file has {stored:,} bytes; it must stay under 1 MB"
    lines = [len(cell.source.split("\n")) for cell in lesson.lesson_code]
    if max(lines) > 25:
        yield f"a code cell has {max(lines)} lines; 25 at most"
    if sum(n > 15 for n in lines) > 0.1 * len(lines):
        yield f"{sum(n > 15 for n in lines)} of {len(lines)} code cells have over 15 lines"
    if statistics.median(lines) > 8:
        yield f"the median code cell has {statistics.median(lines)} lines; 8 at most"
    low, high = START_WORDS if lesson.number == "00" else WORDS
    if not low <= (words := len(lesson.prose.split())) <= high:
        yield f"{words} words of prose; {low} to {high}"
    least = 15 if lesson.number == "00" else 25
    if len(lines) < least:
        yield f"{len(lines)} code cells; at least {least}"
    if sum(bool(cell.outputs) for cell in lesson.lesson_code) < len(lines) / 2:
        yield "most code cells have no output"


def varying_output_is_asserted(lesson: Lesson) -> Iterator[str]:
    for place, cell in enumerate(lesson.code):
        if IGNORED not in tags(cell):
            continue
        following = lesson.code[place + 1 : place + 3]
        if not any(re.search(r"\bassert|\.check\(", after.source) for after in following):
            yield f"no assertion within two cells after: {cell.source.split(chr(10))[0]}"


def claims_are_asserted(lesson: Lesson) -> Iterator[str]:
    literals = set()
    for cell in lesson.code:
        for token in tokenize.generate_tokens(io.StringIO(cell.source).readline):
            if token.type == tokenize.NUMBER:
                literals.add(complex(ast.literal_eval(token.string)))
    for claim in BOUND.finditer(lesson.prose):
        if complex(claim.group(1).replace(",", "")) not in literals:
            yield f"no cell asserts the bound '{claim.group()}'"


def mathematics(lesson: Lesson) -> Iterator[str]:
    for source in lesson.prose_cells:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", source, flags=re.DOTALL).replace(r"\$", "")
        formulas = re.findall(r"\$\$(.*?)\$\$", text, flags=re.DOTALL)
        rest = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
        for paragraph in re.split(r"\n\s*\n", rest):
            if paragraph.count("$") % 2:
                yield f"an odd number of $ in: {paragraph[:60]!r}"
            formulas += re.findall(r"\$([^$]*)\$", paragraph)
        for formula in formulas:
            bare = formula.replace(r"\{", "").replace(r"\}", "")
            unequal = bare.count("{") != bare.count("}")
            sides = [len(re.findall(rf"\\{side}(?![a-z])", bare)) for side in ("left", "right")]
            if unequal or sides[0] != sides[1]:
                yield f"unbalanced: {formula[:60]!r}"


def links(lesson: Lesson) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", lesson.prose):
        if re.match(r"https?://|mailto:|#", target):
            continue
        if not (FOLDER / target.split("#")[0]).exists():
            yield f"the link {target} leads nowhere"


RULES: tuple[Callable[[Lesson], Iterator[str]], ...] = (
    anatomy,
    plain_python,
    few_modules,
    outputs,
    stored_as_run,
    size,
    varying_output_is_asserted,
    claims_are_asserted,
    mathematics,
    links,
)


def problems(lesson: Lesson) -> list[str]:
    """Everything that is wrong with a lesson."""
    return [f"{lesson.name}: {problem}" for rule in RULES for problem in rule(lesson)]
