"""The lock that serialises everything that changes one container."""

import fcntl
import os

from torpor import record
from torpor.container import Container
from torpor.errors import BusyError


class Lock:
    """A flock(2) on the container, held until released or until this process ends."""

    def __init__(self, container: Container, *, wait: bool = True) -> None:
        """Raise BusyError when somebody else holds it and wait is False."""
        record.make_directory(container.lock_path.rpartition("/")[0])
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(container.lock_path, flags, 0o600)
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
