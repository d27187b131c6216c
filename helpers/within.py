"""Being in a network namespace for a while: a child would take longer, and hang beside a thread."""

import os


class Within:
    """Within a with statement this thread, and what it starts, is in the namespace at a path.

    Other threads are where they were. Raises OSError.
    """

    __slots__ = ("_own", "_path")

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> "Within":
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            theirs = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.setns(theirs, os.CLONE_NEWNET)
            finally:
                os.close(theirs)
        except BaseException:
            os.close(self._own)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            os.setns(self._own, os.CLONE_NEWNET)
        finally:
            os.close(self._own)


def path(pid: int | str) -> str:
    """Where the network namespace of a process is."""
    return f"/proc/{pid}/ns/net"


def identity(pid: int | str) -> tuple[int, int]:
    """Tells that of a process from any other. Raises OSError."""
    found = os.stat(path(pid))
    return found.st_dev, found.st_ino
