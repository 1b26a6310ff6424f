"""Files that are whole: known by their hash, and small ones written so that they are there whole or
not at all, also after a kill or a power cut."""

import hashlib
import os
from pathlib import Path


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes as hexadecimal digits, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` (UTF-8, its line ends as they are) beside ``path``, put it on the disk, then
    rename it into place: a reader sees the old file or the new one, never a part.

    The folder must exist. Raises OSError where the disk is full or may not be written.
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
