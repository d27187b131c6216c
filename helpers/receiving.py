"""What an archive holds on its way to this disk."""

import os

from torpor import record
from torpor.archive import Member
from torpor.errors import TorporError
from torpor.tarball import CHUNK_BYTES, Entry

_MARGIN_BYTES = 64 << 20


def require_room(entry: Entry, directory: str) -> None:
    """That an entry fits into a directory's file system. Raises ArchiveError."""
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    if entry.size_bytes + _MARGIN_BYTES > free:
        raise entry.error(
            f"has {entry.size_bytes} bytes; {directory} has {free} left, of which "
            f"{_MARGIN_BYTES} are to stay free",
            "make room there",
        )


def receive_file(member: Member, path: str) -> None:
    """Write an entry to a new file. Raises ArchiveError, TorporError."""
    require_room(member.entry, os.path.dirname(path))
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while piece := member.read(CHUNK_BYTES):
                record.write_all(fd, piece)
        finally:
            os.close(fd)
    except OSError as error:
        raise TorporError(f"{path}: {error.strerror}") from error
