"""What became of a container: a line for each state that it entered, for people to read.

Nothing relies on it, so nothing is synced and nothing fails for it: a power cut takes its last
lines, and may leave half of one. Hooks write it: no imports beyond ``os``.
"""

import os

from torpor.container import Container

_MAX_BYTES = 256 << 10  # then a new file is begun, and one old one kept
_REASON_MAX = 1000
# Ends a line that a power cut has torn. Such a one may look like a whole line that says less.
_TORN = b"\0\n"
# O_NONBLOCK: what lies there may be anything, but is not waited for.
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def append(container: Container, pairs: list[tuple[str, str]], reason: str) -> None:
    """Add a line: pairs without blanks in them, and why."""
    words = [f"{key}={value}" for key, value in pairs]
    words.append(f"reason={reason[:_REASON_MAX]}".replace("\n", " ").replace("\0", " "))
    line = f"{' '.join(words)}\n".encode("utf-8", "backslashreplace")
    try:
        _append(container.history_path, line)
    except OSError:
        pass


def _append(path: str, line: bytes) -> None:
    fd = os.open(path, _FLAGS, 0o600)
    try:
        size_bytes = os.fstat(fd).st_size
        if size_bytes and os.pread(fd, 1, size_bytes - 1) != b"\n":
            line = _TORN + line
        os.write(fd, line)
    finally:
        os.close(fd)
    if size_bytes > _MAX_BYTES:
        os.rename(path, _older(path))


def _older(path: str) -> str:
    return f"{path}.1"


def lines(container: Container) -> tuple[list[str], list[str]]:
    """What was written, oldest first, torn and empty lines too; and why what cannot be read."""
    found: list[str] = []
    faults = []
    for path in (_older(container.history_path), container.history_path):
        try:
            found += _read(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            faults.append(f"{path}: {error.strerror}")
    return found, faults


def _read(path: str) -> list[str]:
    """The lines of a file: the last ones of one that is larger than it could be."""
    from torpor import regular_file  # not for those who write

    fd = os.open(path, regular_file.OPEN_FLAGS | os.O_NOFOLLOW)
    try:
        status = os.fstat(fd)
        regular_file.require_regular(status)
        bound = 2 * _MAX_BYTES
        text = os.pread(fd, bound, max(0, status.st_size - bound))
    finally:
        os.close(fd)
    if not text.endswith(b"\n"):
        text += _TORN
    return text.decode("utf-8", "replace").split("\n")
