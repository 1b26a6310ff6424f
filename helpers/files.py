"""File hashing and atomic writes, and where in a run's folder its model is."""

import hashlib
import os
from pathlib import Path


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes as hexadecimal digits, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` (UTF-8, line ends unchanged) to a file next to ``path``, flush it to the disk
    and rename it into place: a reader sees the old file or the new one, never a part, even after a
    kill or a power cut.

    The folder must exist. Raises OSError if the disk is full or write-protected.
    """
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with scratch.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    return path


def model_folder(folder: str | Path) -> Path:
    """``folder/model`` if it exists, as in what ``train`` writes; else ``folder`` itself."""
    inner = Path(folder) / "model"
    return inner if inner.is_dir() else Path(folder)
