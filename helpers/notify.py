"""sd_notify(3), spoken by hand: a datagram is all it takes."""

# The C module below `socket`, which would import selectors and enum on every start and stop.
import _socket
import os
import select
import sys
import time

from torpor.talk import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_ADDRESS = os.environ.pop("NOTIFY_SOCKET", "")  # taken away so that runc does not use it


def notify(*lines: str) -> None:
    """Tell systemd these assignments in one message; does nothing outside a unit.

    A line break in one, as in what a program said, would be another assignment.
    """
    _send("\n".join(map(plain, lines)).encode(), [])


def _send(message: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
    if not _ADDRESS:
        return
    address = "\0" + _ADDRESS[1:] if _ADDRESS.startswith("@") else _ADDRESS
    link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        link.sendmsg([message], ancillary, 0, address)
    except OSError:
        pass  # systemd is being re-executed, or gone: nobody to tell
    finally:
        link.close()


class Barrier:
    """Tells when systemd has taken in all that was sent before (sd_notify_barrier(3)).

    systemd refuses a main PID that has ended by the time it reads the message: what may end at
    once must not run before.
    """

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, writer.to_bytes(4, sys.byteorder))
        _send(b"BARRIER=1", [rights])
        os.close(writer)

    def wait(self, timeout_s: float = 10.0) -> None:
        """Wait until systemd closes its end of the pipe; a systemd that is gone has done so."""
        poller = select.poll()
        poller.register(self._reader, 0)  # POLLHUP is always reported
        poller.poll(int(timeout_s * 1000))
        os.close(self._reader)


def main_pid(pid: int, *lines: str) -> Barrier:
    """Make a process the unit's main process; it must live until the barrier was waited for."""
    notify(f"MAINPID={pid}", *lines)
    return Barrier()


def status(text: str) -> None:
    notify(f"STATUS={text}")


class Busy:
    """Puts the unit's timeout off while in this context: umoci, cp and chcon tell no progress.

    A little at a time, so that it is soon over when this process is killed.
    """

    _EVERY_S = 5.0
    _AHEAD_S = 15

    def __init__(
        self, text: str, *, needed: bool = True, unless: "Callable[[], bool]" = lambda: False
    ) -> None:
        """unless says that it is to be put off no longer, as when a stop waits for this."""
        self._text = text
        self._needed = needed
        self._unless = unless

    def __enter__(self) -> None:
        if not self._needed:
            return
        import threading  # takes longer than most that is not long

        self._done = threading.Event()
        self._thread = threading.Thread(target=self._extend, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        if self._needed:
            self._done.set()
            self._thread.join()

    def _extend(self) -> None:
        extend(self._AHEAD_S, self._text)
        while not self._done.wait(self._EVERY_S) and not self._unless():
            extend(self._AHEAD_S, self._text)


class Progress:
    """Shows what takes longer than a second, once a second, and asks systemd to wait for it.

    To be called often.
    """

    _EVERY_S = 1.0
    _AHEAD_S = 30

    def __init__(
        self,
        what: str,
        detail: "Callable[[], str]" = lambda: "",
        unless: "Callable[[], bool]" = lambda: False,
    ) -> None:
        """unless says that it is to be put off no longer, as when a stop has a time of its own."""
        self._what = what
        self._detail = detail
        self._unless = unless
        self._began_s = self._said_s = time.monotonic()

    def __call__(self) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s > self._EVERY_S and not self._unless():
            self._said_s = now_s
            elapsed_s = now_s - self._began_s
            extend(self._AHEAD_S, f"{self._what}{self._detail()}, {elapsed_s:.0f} s")


def extend(seconds: int, text: str) -> None:
    """Show progress and ask for this many seconds more before the unit's timeout."""
    notify(f"STATUS={text}", f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000}")
