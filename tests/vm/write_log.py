"""All that a machine wrote to a disk, in order, and the disks that a power cut could have left.

qemu's blklogwrites writes the log, in the format of Linux's dm-log-writes (its log-writes.rst and
drivers/md/dm-log-writes.c).
"""

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_MAGIC = 0x6A736677736872
_SUPER = struct.Struct("<QQQI")  # magic, version, entries, bytes in a sector
_ENTRY = struct.Struct("<QQQQ")  # sector, sectors, flags, bytes of data
_FLUSH, _FUA, _DISCARD = 1, 2, 4
_TORN = 0.1  # how often one of the writes under way is cut off in the middle


class Write(NamedTuple):
    """One entry: where its data is in the log and belongs on the disk, in bytes."""

    offset: int
    size: int
    data_offset: int
    flushes: bool  # what was written before it is on the disk
    discards: bool  # zeroes rather than data


def read(path: Path) -> list[Write]:
    """The entries so far."""
    with path.open("rb") as log:
        magic, _, count, sector_bytes = _SUPER.unpack(log.read(_SUPER.size))
        assert magic == _MAGIC, path
        position = sector_bytes
        found = []
        for _ in range(count):
            log.seek(position)
            sector, sectors, flags, _ = _ENTRY.unpack(log.read(_ENTRY.size))
            position += sector_bytes
            size = sectors * sector_bytes
            discards = bool(flags & _DISCARD)
            flushes = bool(flags & (_FLUSH | _FUA))
            found.append(Write(sector * sector_bytes, size, position, flushes, discards))
            position += 0 if discards else size
    return found


class Disk:
    """A disk's content while the log is replayed to it."""

    def __init__(self, content: Path, log: Path) -> None:
        self._writes = read(log)
        self._disk = os.open(content, os.O_RDWR)
        self._log = os.open(log, os.O_RDONLY)
        self._done = 0  # of the writes

    def __len__(self) -> int:
        return len(self._writes)

    def close(self) -> None:
        os.close(self._disk)
        os.close(self._log)

    def advance(self, end: int) -> list[Write]:
        """Write what was flushed before entry number end; the writes that were under way then."""
        flushed = max((at for at in range(end) if self._writes[at].flushes), default=-1) + 1
        for write in self._writes[self._done : flushed]:
            self._write(self._disk, write, write.size)
        self._done = max(self._done, flushed)
        return self._writes[self._done : end]

    def cut(self, pending: list[Write], path: Path, choice: random.Random) -> None:
        """Have a copy of the disk at path with any of the pending writes, some in part."""
        os.lseek(self._disk, 0, os.SEEK_SET)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            size = os.fstat(self._disk).st_size
            os.ftruncate(fd, size)
            for begin, end in _extents(self._disk, size):
                _copy(self._disk, begin, fd, begin, end - begin)
            for write in pending:
                if choice.random() < 0.5:
                    is_torn = choice.random() < _TORN
                    part = choice.randrange(0, write.size + 1, 512) if is_torn else write.size
                    self._write(fd, write, part)
        finally:
            os.close(fd)

    def _write(self, fd: int, write: Write, size: int) -> None:
        if write.discards:
            os.pwrite(fd, bytes(size), write.offset)
        elif size:
            _copy(self._log, write.data_offset, fd, write.offset, size)


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a sparse file has data."""
    end = 0
    while end < size:
        try:
            begin = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(fd, begin, os.SEEK_HOLE)
        yield begin, end


def _copy(source: int, source_offset: int, target: int, target_offset: int, size: int) -> None:
    while size:
        data = os.pread(source, min(size, 1 << 20), source_offset)
        assert data, "the log is cut off"
        os.pwrite(target, data, target_offset)
        source_offset, target_offset = source_offset + len(data), target_offset + len(data)
        size -= len(data)
