"""Reading a small regular file that may turn out to be anything else."""

import errno
import os
import stat

OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def read(path: str, limit_bytes: int) -> tuple[bytes, os.stat_result]:
    """The content and the status of the regular file at path; a FIFO is refused, never waited for.

    Raises OSError: EISDIR, EINVAL (not a regular file), EFBIG (more than limit_bytes), or what
    open(2) says.
    """
    try:
        fd = os.open(path, OPEN_FLAGS)
    except ValueError as error:
        raise OSError(errno.EINVAL, "the path holds a NUL or an unencodable character") from error
    try:
        return read_fd(fd, limit_bytes)
    finally:
        os.close(fd)


def read_fd(fd: int, limit_bytes: int) -> tuple[bytes, os.stat_result]:
    """As read(), from an open file descriptor, which stays open."""
    status = os.fstat(fd)
    require_regular(status)
    chunks: list[bytes] = []
    size_bytes = 0
    while chunk := os.read(fd, limit_bytes + 1 - size_bytes):
        chunks.append(chunk)
        size_bytes += len(chunk)
        if size_bytes > limit_bytes:
            raise OSError(errno.EFBIG, f"it is larger than {limit_bytes} bytes")
    return b"".join(chunks), status


def require_regular(status: os.stat_result) -> None:
    """Raises OSError (EISDIR or EINVAL) unless status is that of a regular file."""
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, "it is a directory, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
