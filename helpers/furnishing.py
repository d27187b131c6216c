"""What a systemd in a container is told: in files before it begins, by a signal when it wakes."""

import _socket  # the C module below socket, which imports selectors and enum
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from torpor import inroot, process, systemd_mode

_REFRESH_TIMEOUT_S = 30.0
_LOOK_S = 0.005


def for_systemd(pid: int, owner: tuple[int, int]) -> None:
    """Tell a systemd that has not begun what it needs to sleep; owner is its root on the host.

    Raises OSError.
    """
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _rights_of(*owner):
            for path, text in systemd_mode.FILES.items():
                inroot.make_file(f"/proc/self/fd/{root}", path, text.encode())
    finally:
        os.close(root)


class Refresh:
    """The systemds of a container that woke execute themselves anew, which keeps their state.

    They know their services by the inode numbers of pidfds, which are others after a restore, and
    would refuse what a service says of itself, so that its watchdog ends it.
    """

    def __init__(self, init: int, pids: list[int]) -> None:
        """Ask the systemds among these frozen processes, for when they are thawed."""
        self._init = init
        self._before = _image(init)
        asked = [pid for pid in pids if process.name(pid) == "systemd" and _ask(pid)]
        self._is_under_way = init in asked

    def wait(self) -> None:
        """Wait until the container's init can be spoken with again; bounded."""
        deadline_s = time.monotonic() + _REFRESH_TIMEOUT_S
        while self._is_under_way and time.monotonic() < deadline_s:
            if _image(self._init) != self._before and _listens(self._init):
                return
            time.sleep(_LOOK_S)


def _ask(pid: int) -> bool:
    if not process.hears(pid, systemd_mode.REEXEC_SIGNAL):
        return False
    try:
        os.kill(pid, systemd_mode.REEXEC_SIGNAL)
    except ProcessLookupError:
        return False
    return True


def _image(pid: int) -> list[str]:
    """What execve(2) changes of a process: where its code and its stack are (proc_pid_stat(5))."""
    fields = process.read_small(f"/proc/{pid}/stat").rpartition(") ")[2].split()
    return [*fields[23:26], process.read_small(f"/proc/{pid}/cmdline")]


def _listens(pid: int) -> bool:
    """Whether a container's systemd accepts connections of systemctl(1).

    The container decides what lies there: no link leads out of it, and nothing is waited for.
    """
    try:
        place = inroot.open_handle(f"/proc/{pid}/root", systemd_mode.PRIVATE_SOCKET)
    except OSError:
        return False
    kind = _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
    link = _socket.socket(_socket.AF_UNIX, kind)
    try:
        link.connect(f"/proc/self/fd/{place}")
        return True
    except OSError:
        return False
    finally:
        link.close()
        os.close(place)


@contextmanager
def _rights_of(uid: int, gid: int) -> Iterator[None]:
    """That user's rights to files: on a user namespace's tmpfs the host's root can make none."""
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
