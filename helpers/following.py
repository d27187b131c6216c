"""Reading the images of a dump while CRIU writes them: pages are hashed from memory, and all are on
their way to disk before the dump is finished, but for zeroes, of which holes are made.

CRIU appends to an image of pages and never goes back (page-xfer.c of CRIU).
"""

import fcntl
import os
import struct
import time

import xxhash

from torpor import record
from torpor.thread import Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_PAGES = "pages-"
_CHUNK_BYTES = 1 << 20
_SYNC_BYTES = 32 << 20  # the disk gets its work in pieces of at least this, or the rest
_PAUSE_S = 0.002
_PAUSE_SHARE = 4  # a look at many files is not to keep a processor busy
_CLOSELY = os.O_CLOEXEC | os.O_NOFOLLOW

# Holes of less than that are not worth a read from disk that is cut in two.
_HOLE_BYTES = 64 << 10
_ZEROES = bytes(_HOLE_BYTES)
_PUNCH_S = 0.01  # longer is too long, if it is so again and again
_SLOW_MOST = 4
# Python has no fallocate(2) that punches; FS_IOC_UNRESVSP64 of linux/falloc.h does the same.
_PUNCH_HOLE = 0x4030582B
_SPACE = struct.Struct("=hh4xqqiI16x")  # struct space_resv; whence 0 is SEEK_SET


class Hash:
    """The checksum of a file as far as it was read."""

    __slots__ = ("_buffer", "_state", "size_bytes")

    def __init__(self, buffer: bytearray) -> None:
        """buffer can be one that others use too, in turns."""
        self._buffer = buffer
        self._state = xxhash.xxh3_128()
        self.size_bytes = 0

    def read_on(self, fd: int) -> int:
        """Read as much as the buffer holds from where it stopped; how much that was."""
        count = os.preadv(fd, [self._buffer], self.size_bytes)
        self._state.update(memoryview(self._buffer)[:count])
        self.size_bytes += count
        return count

    def hexdigest(self) -> str:
        return str(self._state.hexdigest())


def new_buffer() -> bytearray:
    return bytearray(_CHUNK_BYTES)


class Following:
    """A thread that reads what is written in a directory of images, until it is ended."""

    def __init__(self, images: str) -> None:
        self._images = images
        self._pages: dict[str, _Pages] = {}
        self._others: dict[str, _Other] = {}
        self._buffer = new_buffer()
        self._is_over = False
        self._fault: OSError | None = None
        self._thread = Thread(self._follow)

    def end(self) -> dict[str, Hash]:
        """What was read, by file name; waits for what is being read or synced at this moment.

        Raises OSError: the kernel says only once of a file that it could not be written.
        """
        self.abandon()
        while not self._thread.ends_within(1.0):
            pass
        if self._fault is not None:
            raise self._fault
        return {name: each.hash for name, each in self._pages.items()}

    def abandon(self) -> None:
        """Nobody needs it any more."""
        self._is_over = True

    def _follow(self) -> None:
        try:
            while not self._is_over:
                began_s = time.monotonic()
                if not self._look():
                    time.sleep(max(_PAUSE_S, _PAUSE_SHARE * (time.monotonic() - began_s)))
        except OSError as error:
            self._fault = record.naming(error.filename or self._images, error)
        finally:
            for each in self._pages.values():
                os.close(each.fd)

    def _look(self) -> bool:
        """Whether anything was to be done."""
        found = False
        with os.scandir(self._images) as entries:
            for entry in entries:
                try:
                    found |= self._look_at(entry)
                except FileNotFoundError:
                    pass  # CRIU removes what stays empty
        return found

    def _look_at(self, entry: "os.DirEntry[str]") -> bool:
        if entry.is_symlink():
            return False  # to what was copied ahead
        if entry.name.startswith(_PAGES):
            return self._page(entry).go_on()
        other = self._others.setdefault(entry.name, _Other(entry.path))
        return other.go_on(entry.stat(follow_symlinks=False).st_size)

    def _page(self, entry: "os.DirEntry[str]") -> "_Pages":
        if entry.name not in self._pages:
            self._pages[entry.name] = _Pages(
                os.open(entry.path, os.O_RDWR | _CLOSELY), self._buffer
            )
        return self._pages[entry.name]


class _Pages:
    __slots__ = ("_buffer", "_can_punch", "_punched", "_slow", "_unsynced_bytes", "fd", "hash")

    def __init__(self, fd: int, buffer: bytearray) -> None:
        self.fd = fd
        self.hash = Hash(buffer)
        self._buffer = buffer
        self._can_punch = True
        self._punched = self._slow = 0
        self._unsynced_bytes = 0

    def go_on(self) -> bool:
        """Read what there is, and have the disk write it."""
        began = self.hash.size_bytes
        count = self.hash.read_on(self.fd)
        if self._can_punch:
            for start, end in zeroes(self._buffer, began, count):
                self._punch(start, end)
        self._unsynced_bytes += count
        if count and self._unsynced_bytes < _SYNC_BYTES:
            return True
        if self._unsynced_bytes:
            os.fdatasync(self.fd)
            self._unsynced_bytes = 0
            return True
        return False

    def _punch(self, start: int, end: int) -> None:
        """Let the file system forget zeroes: they read the same.

        Not all of them can, and ext4 before Linux 6.14 first writes them to the disk, with a lock
        that CRIU waits for: where that shows, they stay.
        """
        began_s = time.monotonic()
        try:
            fcntl.ioctl(self.fd, _PUNCH_HOLE, _SPACE.pack(0, os.SEEK_SET, start, end - start, 0, 0))
        except OSError:
            self._can_punch = False
        self._punched += 1
        self._slow += time.monotonic() - began_s > _PUNCH_S
        if self._slow > _SLOW_MOST and 2 * self._slow > self._punched:
            self._can_punch = False


def zeroes(buffer: bytearray, offset: int, count: int) -> "Iterator[tuple[int, int]]":
    """Where a file holds nothing but zeroes, of which count bytes from offset are in buffer."""
    at = -offset % _HOLE_BYTES
    start = None
    while at + _HOLE_BYTES <= count:
        if buffer.startswith(_ZEROES, at):
            start = at if start is None else start
        elif start is not None:
            yield offset + start, offset + at
            start = None
        at += _HOLE_BYTES
    if start is not None:
        yield offset + start, offset + at


class _Other:
    """An image that may still be changed in place: to be read when it is finished."""

    __slots__ = ("_path", "_seen_bytes", "_synced_bytes")

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen_bytes = self._synced_bytes = 0

    def go_on(self, size_bytes: int) -> bool:
        """Have the disk write it when it no longer grows."""
        grows, self._seen_bytes = size_bytes != self._seen_bytes, size_bytes
        if grows or size_bytes == self._synced_bytes:
            return False
        fd = os.open(self._path, os.O_RDONLY | _CLOSELY)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
        self._synced_bytes = size_bytes
        return True
