"""What the tests of fetching share: real pip, small real wheels, and a cache of their own."""

import os
from pathlib import Path

import pytest
from package_index import entry, make_wheel

from helpers.assets import catalog, store

# Tests compare with hand calculation to six digits, also on a CPU that would choose bf16.
os.environ.setdefault("COURSE_PRECISION", "fp32")

FILES = {"toy/data/a.txt": b"alpha " * 2000, "toy/data/deep/b.txt": b"beta", "toy/code.py": b"1"}
LOAD_CATALOG = catalog.load_catalog.__wrapped__


class Course:
    """A catalogue, a folder of wheels that pip finds, and an empty cache, all of this test's."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.links, self.home = folder / "links", folder / "home"
        self.links.mkdir()
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_FIND_LINKS", str(self.links))
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("COURSE_HOME", str(self.home))
        monkeypatch.delenv("COURSE_OFFLINE", raising=False)

    def use(self, *entries: str) -> Path:
        path = self.folder / "catalog.toml"
        path.write_text("".join(entries), encoding="utf-8")
        assets_by_name = LOAD_CATALOG(path)
        self.monkeypatch.setattr(catalog, "load_catalog", lambda: assets_by_name)
        return path

    def use_index(self, url: str) -> None:
        self.monkeypatch.delenv("PIP_NO_INDEX")
        self.monkeypatch.delenv("PIP_FIND_LINKS")
        self.monkeypatch.setenv("PIP_INDEX_URL", url)
        self.monkeypatch.setenv("PIP_RETRIES", "1")

    def left_over(self) -> list[str]:
        return [path.name for path in self.home.rglob(".*") if path.name != store.MANIFEST]


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A catalogue to write, a folder of wheels to fill, and an empty cache."""
    monkeypatch.setattr(store, "_verified", {})
    return Course(tmp_path, monkeypatch)


@pytest.fixture
def toy(course):
    """A course with one asset, ``toy``, whose wheel pip finds."""
    wheel = make_wheel(course.links, FILES)
    course.catalogue = course.use(entry("toy", wheel, "toy/data/"))
    course.wheel, course.files = wheel, FILES
    return course
