"""The lock that serialises everything that changes one container."""

import fcntl
import os
import time

from torpor import record
from torpor.container import RUN_ROOT, Container
from torpor.errors import BusyError

TYPE_CHECKING = False  # typing itself would cost a hook more than all it does
if TYPE_CHECKING:
    from collections.abc import Callable

# Less than a unit's timeout, as systemd has it by default: then there is time to say why.
WAIT_S = 60.0
_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.05

_RESTORES = f"{RUN_ROOT}/.locks/.restores"


def _open(path: str) -> int:
    record.make_directory(path.rpartition("/")[0])
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


class Restoring:
    """Shared by all restores under way, so that a clean-up knows whether there are any."""

    def __enter__(self) -> "Restoring":
        self._fd = _open(_RESTORES)
        fcntl.flock(self._fd, fcntl.LOCK_SH)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def while_nothing_restores(action: "Callable[[], None]") -> bool:
    """Do something that must not meet a restore; False when one is under way."""
    fd = _open(_RESTORES)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        action()
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def acquire(fd: int, timeout_s: float) -> bool:
    """Take a flock(2) for oneself alone; False when others hold it until the time is over."""
    deadline_s = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() + pause_s > deadline_s:
                return False
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class Lock:
    """A flock(2) on the container, held until released or until this process ends."""

    def __init__(self, container: Container, *, wait: bool = True) -> None:
        """Raise BusyError when somebody else holds it: for long, or at all if wait is False."""
        self._fd = _open(container.lock_path)
        if not acquire(self._fd, WAIT_S if wait else 0):
            os.close(self._fd)
            what = f"for {WAIT_S:.0f} s it has been" if wait else "it is"
            raise BusyError(
                f"{container.name} is busy: {what} starting, stopping or being changed",
                f"see: systemctl status {container.unit}; fuser -v {container.lock_path}",
            )

    def release(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
