"""File hashing, atomic writes, and where a run keeps its model."""

import hashlib
import os
from pathlib import Path


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file as hexadecimal digits, read piece by piece. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` as UTF-8 with its line endings unchanged, all or nothing: even after a kill
    or a power cut, ``path`` holds the old content or the new, never a part of either.

    The folder must exist. Raises OSError if the disk is full or not writable.
    """
    # The process id keeps two processes that write the same file out of each other's way.
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with scratch.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            # Without fsync, a power cut could leave the new name pointing to unwritten data.
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:  # also after Ctrl+C
        scratch.unlink(missing_ok=True)
        raise
    return path


def model_folder(folder: str | Path) -> Path:
    """``folder/model`` if it exists, as in what ``train`` writes; else ``folder`` itself."""
    inner = Path(folder) / "model"
    return inner if inner.is_dir() else Path(folder)
