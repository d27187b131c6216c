"""Who is being dumped or restored at this moment: not more than the processors can work on.

More at once would take as long in all, and each would be away for all of that time.
"""

import fcntl
import os
import time

from torpor import record
from torpor.container import RUN_ROOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# While one waits for its disk or for the kernel another computes.
_PER_PROCESSOR = 2
_PAUSE_S = 0.02
_PATIENCE_S = 10.0


def most() -> int:
    """How many at once."""
    return _PER_PROCESSOR * len(os.sched_getaffinity(0))


class Turn:
    """One of them, as long as this context or this process lasts."""

    def __init__(self, patience_s: "Callable[[], float]", meanwhile: "Callable[[], None]") -> None:
        """Wait for a turn as long as others get theirs, and for patience_s() when none does:
        those whose turn it is may hang.

        meanwhile is called while it waits, often; what it raises ends that.
        """
        self._fd = -1
        self.in_vain_s = 0.0  # waited without any sign
        if not self._take():
            self._wait(min(_PATIENCE_S, patience_s()), meanwhile)

    def _wait(self, patience_s: float, meanwhile: "Callable[[], None]") -> None:
        seen, since_s = _last_taken(), time.monotonic()
        while not self._take():
            now, now_s = _last_taken(), time.monotonic()
            if now != seen:
                seen, since_s = now, now_s
            elif now_s - since_s > patience_s:
                self.in_vain_s = now_s - since_s
                return
            meanwhile()
            time.sleep(_PAUSE_S)

    def _take(self) -> bool:
        record.make_directory(f"{RUN_ROOT}/.locks")
        for number in range(most()):
            fd = _open(number)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            os.utime(fd)
            self._fd = fd
            return True
        return False

    def __enter__(self) -> "Turn":
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _last_taken() -> list[int]:
    """What changes when somebody takes a turn."""
    found = []
    for number in range(most()):
        fd = _open(number)
        found.append(os.fstat(fd).st_mtime_ns)
        os.close(fd)
    return found


def _open(number: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(f"{RUN_ROOT}/.locks/.turn-{number}", flags, 0o600)
