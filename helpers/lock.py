"""The lock that serialises everything that changes one container."""

import fcntl
import os

from torpor import record
from torpor.container import RUN_ROOT, Container
from torpor.errors import BusyError

TYPE_CHECKING = False  # typing itself would cost a hook more than all it does
if TYPE_CHECKING:
    from collections.abc import Callable

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


class Lock:
    """A flock(2) on the container, held until released or until this process ends."""

    def __init__(self, container: Container, *, wait: bool = True) -> None:
        """Raise BusyError when somebody else holds it and wait is False."""
        self._fd = _open(container.lock_path)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(self._fd)
            raise BusyError(
                f"{container.name} is busy: it is starting, stopping or being changed",
                f"see: systemctl status {container.unit}",
            ) from None

    def release(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
