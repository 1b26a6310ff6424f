"""TensorFlow's checkpoint files (``NAME.index`` and ``NAME.data-00000-of-00001``), read without
TensorFlow. Nothing is unpickled and no code in them is run: they hold only names and numbers.

The index is a LevelDB table: blocks of sorted keys and values, each block with a checksum. A key
is a tensor's name. Its value is a protocol-buffer message with the tensor's type and shape, and
with the data file and offset where its bytes are. The data files are those bytes, end to end.
Sources: tensorflow/core/util/tensor_bundle, core/protobuf/tensor_bundle.proto, core/lib/io
(table format), core/lib/hash (checksums), as of TensorFlow 2.21.
"""

import math
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from helpers.errors import CourseError, unknown_name

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER, _TRAILER = 48, 5  # bytes at the end of the table, and after each block
# By TensorFlow's number for the type.
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 19: "<f2"}


class TensorEntry(NamedTuple):
    """One tensor in the index: dtype (TensorFlow's number), shape, the number of its data file,
    the offset and size of its bytes there, and their masked CRC-32C."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


class TensorBundle:
    """An open checkpoint. ``entries``: name -> ``TensorEntry``, sorted by name. ``shards``: how
    many data files it has.

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
            if header.get(2):
                raise ValueError("it was written on a big-endian machine")
            self.entries = {key.decode(): _entry(value) for key, value in rows.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise CourseError(
                f"{index} is not a TensorFlow checkpoint index, or it is damaged ({error}). "
                "Fetch or copy the file again."
            ) from None
        self.shards = header.get(1, 1)

    def read(self, name: str) -> np.ndarray:
        """The tensor ``name``, its checksum verified.

        Raises InvalidValue (no such name) and CourseError: an unsupported type or layout, a data
        file that is missing or too short, bytes that do not match their checksum.
        """
        if name not in self.entries:
            raise unknown_name("tensor", name, self.entries)
        entry = self.entries[name]
        dtype = np.dtype(_DTYPES.get(entry.dtype, "V"))  # V, "void", has no size
        if not dtype.itemsize or entry.size != dtype.itemsize * math.prod(entry.shape):
            raise CourseError(
                f"tensor {name} of {self.prefix} is stored in a way that isn't supported: "
                f"TensorFlow's type {entry.dtype}, {entry.size} bytes for shape {entry.shape}."
            )
        end = f"data-{entry.shard:05d}-of-{self.shards:05d}"
        path = self.prefix.with_name(f"{self.prefix.name}.{end}")
        try:
            with path.open("rb") as file:
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
        if _masked_crc32c(raw) != entry.checksum:
            raise CourseError(
                f"tensor {name} in {path} does not match its checksum: the file is damaged. Fetch "
                "or copy it again."
            )
        return np.frombuffer(raw, dtype).reshape(entry.shape).copy()  # a copy is writeable


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
    footer = BytesIO(table[-_FOOTER:])
    _handle(footer)  # skip the metaindex block
    for _, value in _block(table, *_handle(footer)):
        yield from _block(table, *_handle(BytesIO(value)))


def _block(table: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    end = start + size
    stored = int.from_bytes(table[end + 1 : end + _TRAILER], "little")
    if end + _TRAILER > len(table) or _masked_crc32c(table[start : end + 1]) != stored:
        raise ValueError(f"the block at byte {start} does not match its checksum")
    if table[end]:
        raise ValueError("it is compressed, which TensorFlow never does by default")
    restarts = int.from_bytes(table[end - 4 : end], "little")
    length = size - 4 * (restarts + 1)
    block, key = BytesIO(table[start : start + length]), b""
    while block.tell() < length:
        shared, fresh, width = _varint(block), _varint(block), _varint(block)
        key = key[:shared] + block.read(fresh)
        yield key, block.read(width)


def _handle(stream: BytesIO) -> tuple[int, int]:
    """The start and the size of a block."""
    return _varint(stream), _varint(stream)


def _varint(stream: BytesIO) -> int:
    """A number in groups of seven bits, lowest first; all groups but the last have the high bit."""
    value = shift = 0
    while byte := stream.read(1):
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
    raise ValueError("it ends in mid-entry")


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The number and value of each field of a protocol-buffer message."""
    stream = BytesIO(message)
    while stream.tell() < len(message):
        number, kind = divmod(_varint(stream), 8)
        if kind == 0:
            yield number, _varint(stream)
        elif kind == 2:
            yield number, stream.read(_varint(stream))
        else:
            yield number, int.from_bytes(stream.read({1: 8, 5: 4}[kind]), "little")


def _entry(message: bytes) -> TensorEntry:
    """A BundleEntryProto."""
    fields = dict(_fields(message))
    sizes = [dict(_fields(part)) for number, part in _fields(fields.get(2, b"")) if number == 2]
    dtype, *rest = (fields.get(number, 0) for number in (1, 3, 4, 5, 6))
    return TensorEntry(dtype, tuple(size.get(1, 0) for size in sizes), *rest)
