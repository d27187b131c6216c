"""What an image has in a directory, copied into the tmpfs that is to be mounted there.

The image may be hostile, and somebody may change it meanwhile: everything is opened by name in an
open directory, no link is followed, no device or FIFO opened, and all of it is bounded.
"""

import errno
import os
import stat

from torpor.errors import TorporError

LIMIT_BYTES = 256 << 20
LIMIT_ENTRIES = 1 << 16
LIMIT_DEPTH = 64  # each level holds two descriptors open

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK_BYTES = 1 << 20


class CopyUp:
    """One copy, and what is left of its bounds."""

    __slots__ = ("_bytes", "_entries", "_place")

    def __init__(self, place: str) -> None:
        self._bytes = LIMIT_BYTES
        self._entries = LIMIT_ENTRIES
        self._place = place  # for messages

    def run(self, source: int, target: int) -> None:
        """Copy what is in one open directory into another, which is empty.

        Directories, regular files, links and FIFOs, with owner, mode and time; what else there is
        belongs to programs that do not run yet. Raises OSError, TorporError.
        """
        try:
            self._directory(source, target, 0)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._too_much("more than the tmpfs takes") from error
            raise

    def _directory(self, source: int, target: int, depth: int) -> None:
        if depth > LIMIT_DEPTH:
            raise self._too_much(f"more than {LIMIT_DEPTH} levels of directories")
        inside = os.open(".", _DIRECTORY, dir_fd=source)
        try:
            with os.scandir(inside) as entries:
                for entry in entries:
                    self._entry(inside, target, entry.name, depth)
        finally:
            os.close(inside)

    def _entry(self, source: int, target: int, name: str, depth: int) -> None:
        self._entries -= 1
        if self._entries < 0:
            raise self._too_much(f"more than {LIMIT_ENTRIES} files")
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            self._subdirectory(source, target, name, depth)
        elif stat.S_ISREG(status.st_mode):
            self._file(source, target, name)
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif stat.S_ISFIFO(status.st_mode):
            os.mkfifo(name, 0o600, dir_fd=target)
        else:
            return
        _dress(target, name, status)

    def _subdirectory(self, source: int, target: int, name: str, depth: int) -> None:
        below = os.open(name, _DIRECTORY, dir_fd=source)
        try:
            os.mkdir(name, 0o700, dir_fd=target)
            copied = os.open(name, _DIRECTORY, dir_fd=target)
            try:
                self._directory(below, copied, depth + 1)
            finally:
                os.close(copied)
        finally:
            os.close(below)

    def _file(self, source: int, target: int, name: str) -> None:
        content = os.open(name, _READ, dir_fd=source)
        try:
            copied = os.open(name, _WRITE, 0o600, dir_fd=target)
            try:
                while chunk := os.read(content, _CHUNK_BYTES):
                    self._bytes -= len(chunk)
                    if self._bytes < 0:
                        raise self._too_much(f"more than {LIMIT_BYTES >> 20} MiB")
                    _write(copied, chunk)
            finally:
                os.close(copied)
        finally:
            os.close(content)

    def _too_much(self, what: str) -> TorporError:
        return TorporError(
            f"{self._place} of the image holds {what}",
            f"A tmpfs begins with what the image has there: empty it, or mount something at "
            f"{self._place}.",
        )


def _write(file: int, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        left = left[os.write(file, left) :]


def _dress(directory: int, name: str, status: os.stat_result) -> None:
    """Give it owner, mode and time of what it was copied from; chown first: it clears mode bits."""
    try:
        os.chown(name, status.st_uid, status.st_gid, dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        # Nobody of the container's user namespace: then its root's. All of this is nosuid.
        if error.errno != errno.EINVAL:
            raise
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=directory)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
