"""TensorFlow's checkpoint files (``NAME.index`` and ``NAME.data-00000-of-00001``), read without
TensorFlow. Nothing is unpickled and no code in them is run: they hold only names and numbers.

The index is a LevelDB table: blocks of sorted keys and values, each block with a checksum. A key
is a tensor's name. Its value is a protocol-buffer message with the tensor's type and shape, and
with the data file and offset where its bytes are. The data files are those bytes, end to end.
Sources: tensorflow/core/util/tensor_bundle, core/protobuf/tensor_bundle.proto, core/lib/io
(table format), core/lib/hash (checksums), as of TensorFlow 2.21.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from helpers.errors import CourseError, unknown_name

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER, _TRAILER = 48, 5  # bytes at the end of the table, and after each block
_DTYPES = {  # by TensorFlow's number for the type
    1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 19: "<f2",
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """One tensor in the index: dtype (TensorFlow's number), shape, the number of its data file,
    the offset and size of its bytes there, and their masked CRC-32C."""

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    checksum: int = 0
    sliced: bool = False


class TensorBundle:
    """An open checkpoint. ``entries``: name -> ``TensorEntry``, sorted by name.

    prefix: the path without ``.index``, such as ``folder/bert_model.ckpt``.
    Raises CourseError: there is no such index, it is damaged, or it isn't a checkpoint.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = Path(prefix)
        index = self.prefix.with_name(self.prefix.name + ".index")
        try:
            table = index.read_bytes()
        except OSError as error:
            raise CourseError(
                f"there is no checkpoint {self.prefix}: {index.name} cannot be read "
                f"({error.strerror}). Give the path without its ending, such as "
                "folder/bert_model.ckpt."
            ) from None
        try:
            rows = dict(_table(table))
            header = dict(_fields(rows.pop(b"")))
            self.entries = {key.decode(): _entry(value) for key, value in rows.items()}
        except (IndexError, KeyError, TypeError, ValueError) as error:
            what = str(error) if isinstance(error, ValueError) else "it ends in mid-entry"
            raise CourseError(
                f"{index} is not a TensorFlow checkpoint index, or it is damaged ({what}). "
                "Fetch or copy the file again."
            ) from None
        if header.get(2, 0):
            raise CourseError(f"{index} was written on a big-endian machine; convert it there.")
        self.shards = header.get(1, 1)

    def read(self, name: str) -> np.ndarray:
        """The tensor ``name``, its checksum verified.

        Raises InvalidValue (no such name) and CourseError: an unsupported type or layout, a data
        file that is missing or too short, bytes that do not match their checksum.
        """
        if name not in self.entries:
            raise unknown_name("tensor", name, self.entries)
        entry = self.entries[name]
        if entry.dtype not in _DTYPES or entry.sliced:
            what = "in slices" if entry.sliced else f"of TensorFlow type {entry.dtype}"
            raise CourseError(f"tensor {name} of {self.prefix} is {what}, which isn't supported.")
        dtype = np.dtype(_DTYPES[entry.dtype])
        if entry.size != dtype.itemsize * int(np.prod(entry.shape, dtype=np.int64)):
            raise CourseError(
                f"tensor {name} of {self.prefix} has shape {entry.shape} and {entry.size} bytes, "
                "which do not agree. The index is damaged; fetch or copy the files again."
            )
        raw = self._bytes(name, entry)
        if _masked_crc32c(raw) != entry.checksum:
            raise CourseError(
                f"tensor {name} in {self.data_file(entry.shard)} does not match its checksum: "
                "the file is damaged. Fetch or copy it again."
            )
        return np.frombuffer(raw, dtype).reshape(entry.shape).copy()  # a copy is writeable

    def data_file(self, shard: int) -> Path:
        """The path of data file number ``shard``."""
        return self.prefix.with_name(f"{self.prefix.name}.data-{shard:05d}-of-{self.shards:05d}")

    def _bytes(self, name: str, entry: TensorEntry) -> bytes:
        path = self.data_file(entry.shard)
        try:
            with open(path, "rb") as file:
                file.seek(entry.offset)
                raw = file.read(entry.size)
        except OSError as error:
            raise CourseError(
                f"data file {path} cannot be read ({error.strerror}); the checkpoint consists of "
                f"{self.prefix.name}.index and {self.shards} data file(s). Fetch or copy them all."
            ) from None
        if len(raw) < entry.size:
            raise CourseError(
                f"data file {path} is too short: tensor {name} ends at byte "
                f"{entry.offset + entry.size}, the file at {path.stat().st_size}. Its download or "
                "copy was cut off; repeat it."
            )
        return raw


def _masked_crc32c(data: bytes) -> int:
    """CRC-32C as TensorFlow stores it: rotated by 15 bits plus an offset, so that a file which
    itself contains checksums can be checksummed safely."""
    checksum = google_crc32c.value(data)
    rotated = (checksum >> 15) | (checksum << 17)
    return (rotated + 0xA282EAD8) & 0xFFFFFFFF


def _table(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All keys and values of the table, in order."""
    if len(table) < _FOOTER or not table.endswith(_MAGIC):
        raise ValueError("bad magic number")
    _, place = _handle(table, len(table) - _FOOTER)  # skip the metaindex block
    (start, size), _ = _handle(table, place)
    for _, value in _block(table, start, size):
        (start, size), _ = _handle(value, 0)
        yield from _block(table, start, size)


def _block(table: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    end = start + size
    stored = int.from_bytes(table[end + 1 : end + _TRAILER], "little")
    if end + _TRAILER > len(table) or _masked_crc32c(table[start : end + 1]) != stored:
        raise ValueError(f"the block at byte {start} does not match its checksum")
    if table[end]:
        raise ValueError("it is compressed, which TensorFlow never does by default")
    block = table[start:end]
    restarts = int.from_bytes(block[-4:], "little")
    place, key = 0, b""
    while place < size - 4 * (restarts + 1):
        shared, place = _varint(block, place)
        fresh, place = _varint(block, place)
        length, place = _varint(block, place)
        key = key[:shared] + block[place : place + fresh]
        place += fresh + length
        yield key, block[place - length : place]


def _handle(data: bytes, place: int) -> tuple[tuple[int, int], int]:
    """A block's (start, size), and the offset behind this handle."""
    start, place = _varint(data, place)
    size, place = _varint(data, place)
    return (start, size), place


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number in groups of seven bits, lowest first, and the offset behind it."""
    value = shift = 0
    while data[place] & 0x80:
        value |= (data[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
    return value | data[place] << shift, place + 1


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The number and value of each field of a protocol-buffer message."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, place = _varint(message, place)
        else:
            size = {1: 8, 5: 4}.get(kind)
            if kind == 2:
                size, place = _varint(message, place)
            value = message[place : place + size]
            place += size
            if kind != 2:
                value = int.from_bytes(value, "little")
        yield number, value


def _entry(message: bytes) -> TensorEntry:
    """A BundleEntryProto."""
    fields = dict(_fields(message))
    names = {1: "dtype", 3: "shard", 4: "offset", 5: "size", 6: "checksum"}
    shape = [dict(_fields(part)) for number, part in _fields(fields.get(2, b"")) if number == 2]
    return TensorEntry(
        **{name: fields[number] for number, name in names.items() if number in fields},
        shape=tuple(dimension.get(1, 0) for dimension in shape),
        sliced=7 in fields,
    )
