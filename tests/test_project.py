"""What the project promises about itself: its lists agree, its wheel is whole, its words hold."""

import ast
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Imports point downwards only: a file or folder of helpers may import those in the lines above its
# own, and inside a folder its own neighbours.
LAYERS = (
    {"errors", "files"},
    {"runtime", "losses"},
    {"batches"},
    {"assets"},
    {"corpora", "models", "generation"},
    {"training"},
    {"evaluation"},
    {"fairness", "tasks", "plots"},
    {"hardware", "shipping"},
    {"widgets"},
    {"exercises"},
    {"cli"},
    {"__main__"},
)


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def all_requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(text) for group in (PROJECT["dependencies"], *extras) for text in group]


@pytest.mark.parametrize("requirement", all_requirements(), ids=str)
def test_constraints_hold_every_requirement_within_its_bounds(requirement):
    pinned = constraints()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned)


def test_nothing_forces_colab_to_replace_what_it_has_loaded():
    """The versions of Colab's published list of 2026-08-19."""
    colab = {
        "torch": "2.11",
        "transformers": "5.15",
        "datasets": "4.0.0",
        "accelerate": "1.14",
        "numpy": "2.1.3",
        "pandas": "2.2.3",
        "matplotlib": "3.10",
        "scikit-learn": "1.6.1",
    }
    for requirement in map(Requirement, PROJECT["dependencies"]):
        if requirement.name in colab:
            assert requirement.specifier.contains(colab[requirement.name]), requirement
        if requirement.name in ("torch", "numpy"):
            assert not any(spec.operator in ("<", "<=", "==") for spec in requirement.specifier)
    assert SpecifierSet(PROJECT["requires-python"]).contains("3.13")


def test_the_conda_environment_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    python = next(line.split("=")[1] for line in conda if line.startswith("python="))
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.0")
    editable = next(line for line in pip["pip"] if line.startswith("--editable"))
    extras = re.search(r"\[(.*)\]", editable)[1].split(",")
    assert set(extras) == set(PROJECT["optional-dependencies"])
    assert "--constraint constraints.txt" in pip["pip"]


def test_the_wheel_carries_the_package_and_its_data(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "helpers").rglob("*.py")} | {
        f"helpers/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "data").rglob("*.*")
    }
    assert expected <= names
    # Used from the wheel alone, outside the checkout, it finds its catalogue.
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "import helpers; from helpers.assets import catalog;"
            "print(helpers.__file__); print(*catalog.load_catalog())",
        ],
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    where, names = found.stdout.splitlines()
    assert Path(where).is_relative_to(unpacked)
    assert {"encoder", "causal-lm", "news", "messages", "reviews"} <= set(names.split())


def test_import_helpers_is_light():
    """Neither torch nor anything else that is heavy; the time itself is for the benchmark."""
    code = "import sys, helpers; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "numpy", "datasets", "matplotlib", "accelerate"}
    assert not heavy & set(done.stdout.split())


def helpers_modules() -> list[Path]:
    return sorted((ROOT / "helpers").rglob("*.py"))


def layer_of(module: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if module in names)


@pytest.mark.parametrize("path", helpers_modules(), ids=lambda path: path.stem)
def test_imports_point_downwards(path):
    relative = path.relative_to(ROOT / "helpers").with_suffix("").parts
    if relative == ("__init__",):
        return
    own = layer_of(relative[0])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "helpers":
            below = node.module.split(".")[1:2] or [alias.name for alias in node.names]
            for name in below:
                neighbours = name == relative[0] and len(relative) > 1
                assert neighbours or layer_of(name) < own, f"{path.name} imports {name}"


def test_no_two_modules_import_each_other():
    imports = {}
    for path in helpers_modules():
        name = ".".join(("helpers", *path.relative_to(ROOT / "helpers").with_suffix("").parts))
        imports[name] = {
            target
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers")
            for target in (node.module, *(f"{node.module}.{a.name}" for a in node.names))
        }

    def reached(name: str, seen: frozenset[str] = frozenset()) -> set[str]:
        below = (imports[name] & imports.keys()) - seen
        return below.union(*(reached(each, seen | below | {name}) for each in below))

    assert [name for name in imports if name in reached(name)] == []


def test_few_files_lie_at_the_top():
    assert len(list((ROOT / "helpers").glob("*.py"))) <= 9


def tracked_texts() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    endings = {".py", ".md", ".toml", ".yml", ".ipynb", ".json", ".txt", ""}
    return [ROOT / name for name in listed.stdout.split("\n") if Path(name).suffix in endings]


def test_no_path_of_any_machine_is_committed():
    root = ROOT.resolve()
    # A clone right under the temporary folder: "/tmp/" alone is no machine's own path.
    in_temporary = root.parent == Path(tempfile.gettempdir()).resolve()
    here = re.escape(str(root if in_temporary else root.parent))
    machine = re.compile(rf"{here}/|/root/|/home/(?!user\b)\w+/|[A-Z]:\\\\Users")
    for path in tracked_texts():
        if path.is_file() and path != Path(__file__):
            found = machine.search(path.read_text(encoding="utf-8"))
            assert not found, f"{path.name}: {found and found[0]}"


def test_the_readme_links_to_files_that_exist_and_lists_every_lesson():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", readme):
        assert (ROOT / target).exists(), target
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"notebooks/{notebook.name}" in readme
