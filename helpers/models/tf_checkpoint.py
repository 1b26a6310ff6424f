"""TensorFlow's checkpoint files (``NAME.index`` and ``NAME.data-00000-of-00001``), read with
numpy alone. Nothing is unpickled and no code in them is run: they hold names and numbers.

The index is a table as LevelDB writes it: blocks of sorted keys and values, each block with a
checksum. A key is a tensor's name, a value a protocol-buffer message that says type, shape, and
where in which data file the tensor's bytes lie. The data files are those bytes, end to end.
Sources: tensorflow/core/util/tensor_bundle, core/protobuf/tensor_bundle.proto, core/lib/io
(table format), core/lib/hash (checksums), as of TensorFlow 2.21.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from helpers.errors import CourseError, unknown_name

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER, _TRAILER = 48, 5  # bytes at the end of the table, and after each block
_DTYPES = {  # by TensorFlow's number of the type
    1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 19: "<f2",
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """What the index says of one tensor: dtype (TensorFlow's number), shape, the number of its
    data file, the place of its bytes there, and the masked CRC-32C of those bytes."""

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    checksum: int = 0
    sliced: bool = False


class TensorBundle:
    """An opened checkpoint. ``entries``: name -> ``TensorEntry``, in the order of the names.

    prefix: the path without ``.index``, such as ``folder/bert_model.ckpt``.
    Raises CourseError: there is no such index, it is damaged, or it is no checkpoint.
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

        Raises InvalidValue (no such name) and CourseError: a type or layout that is not read
        here, a data file that is missing or too short, bytes that do not match their checksum.
        """
        if name not in self.entries:
            raise unknown_name("tensor", name, self.entries)
        entry = self.entries[name]
        if entry.dtype not in _DTYPES or entry.sliced:
            what = "in slices" if entry.sliced else f"of TensorFlow type {entry.dtype}"
            raise CourseError(f"tensor {name} of {self.prefix} is {what}, which is not read here.")
        dtype = np.dtype(_DTYPES[entry.dtype])
        if entry.size != dtype.itemsize * int(np.prod(entry.shape, dtype=np.int64)):
            raise CourseError(
                f"tensor {name} of {self.prefix} has shape {entry.shape} and {entry.size} bytes, "
                "which do not agree. The index is damaged; fetch or copy the files again."
            )
        raw = self._bytes(name, entry)
        if _mask(crc32c(raw)) != entry.checksum:
            raise CourseError(
                f"tensor {name} in {self.data_file(entry.shard)} does not match its checksum: "
                "the file is damaged. Fetch or copy it again."
            )
        return np.frombuffer(raw, dtype).reshape(entry.shape)

    def data_file(self, shard: int) -> Path:
        """The path of data file number ``shard``."""
        return self.prefix.with_name(f"{self.prefix.name}.data-{shard:05d}-of-{self.shards:05d}")

    def _bytes(self, name: str, entry: TensorEntry) -> bytearray:
        path = self.data_file(entry.shard)
        try:
            with open(path, "rb") as file:
                file.seek(entry.offset)
                raw = bytearray(file.read(entry.size))  # so that the array may be written to
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


def crc32c(data: bytes | bytearray) -> int:
    """CRC-32C (Castagnoli; RFC 3720, appendix B.4) of ``data``.

    A checksum goes through its bytes one by one. But it is linear: that of a whole follows from
    those of its parts. So numpy takes 4,096 parts side by side, four bytes a step.
    """
    if len(data) < 4:
        register = 0xFFFFFFFF
        for byte in data:
            register = int(_shift_byte(np.uint32(register ^ byte)))
        return register ^ 0xFFFFFFFF
    # From register 0 leading zeros change nothing, so they may fill up the first part.
    raw = np.frombuffer(bytes(-len(data) % 4) + data, np.uint8).copy()
    raw[-len(data) :][:4] ^= 0xFF  # the same as starting from register 0xFFFFFFFF
    words = raw.view("<u4")
    lanes = min(4096, len(words))
    length = -(-len(words) // lanes)
    parts = np.zeros(lanes * length, np.uint32)
    parts[-len(words) :] = words
    step, registers = _shift_tables(4), np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(parts.reshape(lanes, length).T):
        registers = _shifted(registers ^ column, step)
    join, total = _shift_tables(4 * length), np.uint32(0)
    for register in registers:
        total = _shifted(total, join) ^ register
    return int(total) ^ 0xFFFFFFFF


def _shift_byte(registers: np.ndarray) -> np.ndarray:
    """The registers after one more byte of zeros."""
    for _ in range(8):
        registers = (registers >> 1) ^ ((registers & 1) * np.uint32(0x82F63B78))
    return registers


@cache
def _shift_tables(count: int) -> tuple[np.ndarray, np.ndarray]:
    """What ``count`` bytes of zeros make of the lower and of the upper 16 bits of a register."""
    if count == 1:
        halves = np.arange(1 << 16, dtype=np.uint32)
        return _shift_byte(halves), _shift_byte(halves << 16)
    half = _shift_tables(count // 2)
    tables = tuple(_shifted(table, half) for table in half)
    return tuple(_shift_byte(table) for table in tables) if count % 2 else tables


def _shifted(registers: np.ndarray, tables: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    low, high = tables
    return low[registers & 0xFFFF] ^ high[registers >> 16]


def _mask(checksum: int) -> int:
    """As checksums are stored: turned by 15 bits and moved, so that they are none of themselves."""
    turned = (checksum >> 15) | (checksum << 17)
    return (turned + 0xA282EAD8) & 0xFFFFFFFF


def _table(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All keys and values, in order."""
    if len(table) < _FOOTER or not table.endswith(_MAGIC):
        raise ValueError("its last eight bytes are not a table's mark")
    _, place = _handle(table, len(table) - _FOOTER)  # of the block about nothing
    (start, size), _ = _handle(table, place)
    for _, value in _block(table, start, size):
        (start, size), _ = _handle(value, 0)
        yield from _block(table, start, size)


def _block(table: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    end = start + size
    stored = int.from_bytes(table[end + 1 : end + _TRAILER], "little")
    if end + _TRAILER > len(table) or _mask(crc32c(table[start : end + 1])) != stored:
        raise ValueError(f"the block at byte {start} does not match its checksum")
    if table[end]:
        raise ValueError("it is compressed, as TensorFlow never writes it by default")
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
    """Where a block lies, (start, size), and the place after that."""
    start, place = _varint(data, place)
    size, place = _varint(data, place)
    return (start, size), place


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and the place after it."""
    value = shift = 0
    while data[place] & 0x80:
        value |= (data[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
    return value | data[place] << shift, place + 1


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol-buffer message: number and value."""
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
