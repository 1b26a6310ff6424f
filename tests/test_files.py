"""File hashing and atomic writes."""

import hashlib
import os

import pytest

from helpers import files


def test_the_text_is_written_and_no_other_file_is_left(tmp_path):
    path = files.write_text(tmp_path / "a.json", "é\n")
    assert path.read_bytes() == "é\n".encode()
    files.write_text(path, "new\n")
    assert path.read_text(encoding="utf-8") == "new\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_no_scratch_file(tmp_path, monkeypatch):
    path = files.write_text(tmp_path / "a.json", "old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_hash_of_a_file_equals_that_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 2000
    (tmp_path / "a.bin").write_bytes(content)
    assert files.sha256_of(tmp_path / "a.bin") == hashlib.sha256(content).hexdigest()
