"""Do the tests notice when the code is wrong? mutmut changes one thing at a time and runs them.

    python tools/mutants.py                            every room in pyproject's [tool.mutants]
    python tools/mutants.py losses fairness/gaps       a room, or one file of a room
    python tools/mutants.py losses --survivors         only what survived last time, as a diff
    python tools/mutants.py tasks --tenths 2           two of ten changes, spread over all functions

A room's own fast tests have to notice, and they run against a mutated copy of the package in
build/mutants/ROOM. Results stay there: a second run starts from nothing unless --survivors asks
for the changes that survived, for instance after a test was added. Needs Linux or macOS.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "mutants"
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
ROOMS = SETTINGS["mutants"]
# The wording of messages is not worth a test: lines that raise, and lines that are only a string.
MESSAGES = [r"raise \w+\(", r'^\s*f?"(?:[^"\\]|\\.)*"[,)]*$']
# pytest collects all garbage at the end of each run, which here takes longer than the tests.
QUICK = ["no:cacheprovider", "no:unraisableexception", "no:threadexception", "no:faulthandler"]
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"  # begins the lines that show mutmut's progress
LAST_DIGITS = "3716094825"  # of a change's number, in the order in which --tenths takes them
OUTCOMES = {0: "survived", 1: "killed", 3: "killed", 33: "no test", None: "not run"}


def prepare(room: str) -> Path:
    """A folder in which mutmut finds the room's files, its tests, and what these read."""
    folder = WORK / room
    (folder / "mutants").mkdir(parents=True, exist_ok=True)
    for name in ("helpers", "tests"):
        link(ROOT / name, folder / name)
    for name in ("data", "notebooks", "constraints.txt"):
        link(ROOT / name, folder / "mutants" / name)
    settings = {
        "source_paths": ["helpers"],
        "only_mutate": [f"helpers/{room}.py", f"helpers/{room}/*.py"],
        "pytest_add_cli_args_test_selection": ["-m", "not slow and not gpu", *ROOMS[room]],
        "pytest_add_cli_args": [part for plugin in QUICK for part in ("-p", plugin)],
        "do_not_mutate_patterns": MESSAGES,
        # Each change is tried in a process forked from one that has imported the tests.
        "process_isolation": "forkserver",
        "use_git_change_detection": False,
    }
    lines = [
        "[tool.mutmut]",
        *(f"{name} = {json.dumps(value)}" for name, value in settings.items()),
    ]
    lines += ["[tool.pytest.ini_options]", f"markers = {json.dumps(markers())}", ""]
    (folder / "pyproject.toml").write_text("\n".join(lines), encoding="utf-8")
    return folder


def markers() -> list[str]:
    return SETTINGS["pytest"]["ini_options"]["markers"]


def link(target: Path, place: Path) -> None:
    if not place.is_symlink():
        place.symlink_to(target, target_is_directory=target.is_dir())


def mutmut(folder: Path, *arguments: str) -> str:
    """Run mutmut in ``folder``; its output, or an exit with it if mutmut failed."""
    # One thread each: on tensors this small a second one only waits. No PYTHONPATH: only the
    # mutated copy may be imported.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if done.returncode:
        lines = f"{done.stdout}\n{done.stderr}".splitlines()
        sys.exit("\n".join(line for line in lines[-200:] if line and line[0] not in SPINNER))
    return done.stdout


def outcomes(folder: Path) -> dict[str, str]:
    """What became of each change, by mutmut's name for it."""
    found = {}
    for path in sorted(folder.glob("mutants/**/*.meta")):
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        found |= {name: OUTCOMES.get(code, "stopped") for name, code in codes.items()}
    return found


def unnoticed(found: dict[str, str], pattern: str) -> list[str]:
    return [
        name
        for name, outcome in found.items()
        if outcome in ("survived", "no test") and name.startswith(pattern)
    ]


def report(found: dict[str, str]) -> None:
    modules: dict[str, Counter] = {}
    for name, outcome in found.items():
        if outcome != "not run":
            modules.setdefault(name.rpartition(".")[0], Counter())[outcome] += 1
    for module, counts in modules.items():
        total = counts.total()
        killed = counts["killed"] + counts["stopped"]  # a test that hangs or crashes notices too
        print(f"{module:40} {killed:5} of {total:5} killed, {killed / total:6.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=f"default: {', '.join(ROOMS)}")
    parser.add_argument("--survivors", action="store_true", help="try only those of the last run")
    parser.add_argument("--tenths", type=int, default=10, choices=range(1, 11), metavar="1..10")
    options = parser.parse_args()
    for chosen in options.rooms or ROOMS:
        room = chosen.partition("/")[0]
        if room not in ROOMS:
            sys.exit(f"unknown room {room!r}; there are: {', '.join(ROOMS)}")
        pattern = f"helpers.{chosen.replace('/', '.')}."
        if not options.survivors:
            shutil.rmtree(WORK / room, ignore_errors=True)
        folder = prepare(room)
        some = f"{pattern}*[{LAST_DIGITS[: options.tenths]}]"
        names = unnoticed(outcomes(folder), pattern) if options.survivors else [some]
        if names:
            mutmut(folder, "run", *names)
        found = outcomes(folder)
        for name in unnoticed(found, pattern):
            print(mutmut(folder, "show", name))
        report(found)


if __name__ == "__main__":
    main()
