"""Waiting that ends: as long as something moves it goes on, but not for what hangs.

A shutdown waits for each unit as long as that unit's timeout says. Of this time a part may go to
waiting in vain; the rest is for ending the container in order.
"""

import os
import time

from torpor import mounts, timespan
from torpor.errors import HungError
from torpor.process import read_small
from torpor.thread import Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from torpor.container import Container

    Result = TypeVar("Result")

STOPPING = "TimeoutStopUSec"
STARTING = "TimeoutStartUSec"

_MOST_S = 60.0
_SHARE = 2 / 3  # of the unit's timeout
_SERVED = ("9p", "afs", "ceph", "cifs", "fuse", "nfs", "smb")  # types of file systems
_FIRST_S = 1.0  # before the unit is asked for its timeout
_TICK_S = 1.0


class Patience:
    """How long a unit can wait for what shows no sign of life."""

    def __init__(self, container: "Container", timeout: str) -> None:
        """timeout is the name of the property that bounds what the unit is doing."""
        self._container = container
        self._timeout = timeout
        self._whole_s = 0.0
        self.spent_s = 0.0  # waiting in vain

    @property
    def limit_s(self) -> float:
        """What is left of it: who waited for one thing in vain waits less for the next."""
        if not self._whole_s:
            timeout_s = timespan.of_unit(self._container, self._timeout)
            self._whole_s = min(_MOST_S, _SHARE * timeout_s)
        return max(_FIRST_S, self._whole_s - self.spent_s)


class Stall:
    """Notices that nothing has changed for as long as patience allows, and a grace beyond that."""

    def __init__(self, patience: Patience, grace_s: float = 0.0) -> None:
        self._patience = patience
        self._grace_s = grace_s
        self._seen: object = self
        self.silent_s = 0.0
        self.reset()

    def reset(self) -> None:
        self._since_s = time.monotonic()

    def stalled(self, seen: object) -> bool:
        """Whether it is time to give up, having seen this, which any progress changes."""
        now_s = time.monotonic()
        if seen != self._seen:
            self._seen, self._since_s = seen, now_s
        self.silent_s = now_s - self._since_s
        if self.silent_s <= _FIRST_S:
            return False
        if self.silent_s <= self._patience.limit_s + self._grace_s:
            return False
        self._patience.spent_s += self.silent_s
        return True


def aside(
    work: "Callable[[], Result]",
    progress: "Callable[[], None]",
    stall: Stall,
    sign: "Callable[[], object]",
) -> "Result":
    """What work returns or raises, done in a thread; progress is called every second meanwhile.

    Raises HungError when sign() has not changed for too long: the thread is then left behind, and
    this process, should it have to wait for that, to systemd.
    """
    results: list[Result] = []
    faults: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            faults.append(error)

    thread = Thread(run)
    while not thread.ends_within(_TICK_S):
        if stall.stalled(sign()):
            raise HungError("it does not answer")
        progress()
    if faults:
        raise faults[0]
    return results[0]


def disk_sign(device: int) -> str:
    """What changes while the disk of a file system (st_dev) reads or writes.

    One on no single disk, such as an overlay, has the pages that the machine has written. One of a
    server has nothing.
    """
    own = read_small(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    if own:
        return own
    if mounts.kind(device).startswith(_SERVED):
        return ""
    counters = read_small("/proc/vmstat").splitlines()
    return next((line for line in counters if line.startswith("nr_written ")), "")
