"""Freezing a systemd's container so that no message is on its way between its processes.

CRIU cannot save a message that carries its sender's credentials, as those to systemd and to the
journal do, while it waits in a socket ("skqueue: Control messages in queue, not supported"). So
the senders are frozen first, and the receivers when they have nothing left to read.
"""

import os
import time

from torpor import process
from torpor.cgroup import Cgroup
from torpor.process import read_small

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_RECEIVERS = ("systemd", "systemd-journal", "dbus-daemon", "dbus-broker", "rsyslogd", "syslog-ng")
# So long a receiver may take to read what there is. What is left then fails the dump, in order.
_PATIENCE_S = 0.3
_LOOK_S = 0.002
_LOOKS = 3  # so many times in a row all receivers must be found waiting


def freeze(cgroup: Cgroup, timeout_s: "Callable[[], float]") -> None:
    """As Cgroup.freeze(), after its senders. Raises RuntimeFailedError; then nothing is frozen."""
    receivers, senders = _parties(cgroup.path)
    try:
        for directory in senders:
            _write(directory, "1")
        _await_stillness(receivers)
        cgroup.freeze(timeout_s)
    finally:
        # What is above keeps them frozen; CRIU would bring them back frozen otherwise.
        for directory in senders:
            _write(directory, "0")


def _parties(top: str) -> tuple[list[int], list[str]]:
    """The processes that receive, and the cgroups that hold none of them, nor have any below."""
    receivers: list[int] = []
    senders: list[str] = []
    listening: list[str] = []  # cgroups, below those above them
    for directory, _, _ in os.walk(top, topdown=False):
        pids = [int(pid) for pid in read_small(f"{directory}/cgroup.procs").split()]
        found = [pid for pid in pids if process.name(pid) in _RECEIVERS]
        receivers += found
        if found or any(path.startswith(f"{directory}/") for path in listening):
            listening.append(directory)
        elif pids and directory != top and not _is_frozen(directory):
            senders.append(directory)
    return receivers, senders


def _is_frozen(directory: str) -> bool:
    """By its systemd (systemctl freeze), and that is to stay."""
    return read_small(f"{directory}/cgroup.freeze").strip() == "1"


def _await_stillness(pids: list[int]) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    looks = 0
    while looks < _LOOKS and time.monotonic() < deadline_s:
        time.sleep(_LOOK_S)
        looks = looks + 1 if all(map(_waits, pids)) else 0


def _waits(pid: int) -> bool:
    """Whether it sleeps, or has ended."""
    return process.run_state(pid) in ("S", "", "Z", "X")


def _write(directory: str, value: str) -> None:
    """A cgroup that is gone meanwhile held nothing."""
    try:
        fd = os.open(f"{directory}/cgroup.freeze", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.write(fd, value.encode())
    except OSError:
        pass
    finally:
        os.close(fd)
