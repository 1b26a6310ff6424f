"""Two processes do what one does, at the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
SCRIPT = str(ROOT / "tests" / "train_script.py")
pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="torch for Windows lacks the launcher's store"
)
# 57 examples in batches of 8: the last batch of an epoch holds one, less than one a process.
OPTIONS = ["examples=57", "accumulation=2", "patience=20", "evaluate_every=5"]
OPTIONS += ["dropout=0.2", "attention_dropout=0.0"]  # fused attention draws for each process
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]


def run(launcher: list[str], out: Path, *options: str) -> None:
    out.mkdir()
    done = subprocess.run(
        [sys.executable, *launcher, SCRIPT, str(out), *OPTIONS, *options],
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def read(out: Path, name: str) -> dict:
    return json.loads((out / f"{name}.json").read_text(encoding="utf-8"))


def test_two_passes_equal_one_process(tmp_path):
    for name, launcher in (("one", []), ("two", TORCHRUN)):
        run(launcher, tmp_path / name, "consistency=3.0")
    assert_same(tmp_path / "one", tmp_path / "two", "classifier", [])


@pytest.fixture(scope="module")
def one_process(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "one"
    run([], out, 'tasks=["classifier", "masked"]')
    return out


def assert_same(one_process: Path, two: Path, task: str, events: list[str]) -> None:
    expected = read(one_process, f"{task}-0")
    assert expected["processes"] == 1
    weights = load_file(one_process / f"{task}-0.safetensors")
    for rank in (0, 1):
        history = read(two, f"{task}-{rank}")
        assert history["processes"] == 2
        assert history["events"] == events
        assert history["best_step"] == expected["best_step"]
        for records in ("steps", "evaluations"):
            for one, other in zip(expected[records], history[records], strict=True):
                assert other == pytest.approx(one, abs=1e-5)
        others = load_file(two / f"{task}-{rank}.safetensors")
        assert max((weights[k] - others[k]).abs().max() for k in weights) < 1e-5


def test_torchrun_equals_one_process(tmp_path, one_process):
    """Interrupted after step 8 and resumed by both processes from the checkpoint of step 6."""
    folder = f"checkpoint_folder={json.dumps(str(tmp_path / 'checkpoints'))}"
    run(TORCHRUN, tmp_path / "two", folder, "checkpoint_every=6", "interrupt_at=8")
    assert_same(one_process, tmp_path / "two", "classifier", ["resumed after step 6."])


def test_accelerate_launch_equals_one_process(tmp_path, one_process):
    run(ACCELERATE, tmp_path / "two", 'tasks=["classifier", "masked"]')
    for task in ("classifier", "masked"):
        assert_same(one_process, tmp_path / "two", task, [])
