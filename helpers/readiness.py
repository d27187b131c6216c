"""A container that says by itself when it is ready, as sd_notify(3) does it.

Until then systemd takes the start helper for the main process, and the helper must be able to say
how the container ended: so a keeper is its parent meanwhile. What the container says is not passed
on as it is: it could name another main process.
"""

import _socket  # the C module below socket, which imports selectors and enum
import math
import os
import select
import signal
import time

from torpor import notify, process, record
from torpor.container import Container
from torpor.errors import EndedEarlyError, RuntimeFailedError, StoppedError
from torpor.process import Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PLACE = "/run/host/notify"  # systemd in a container leaves alone what is mounted in /run/host
SOCKET = "socket"
_MESSAGE_MAX_BYTES = 4096
_STATUS_MAX = 200
_SPAN_DIGITS_MAX = 15
_POLL_MAX_S = 3600.0  # poll(2) takes an int


def directory(container: Container) -> str:
    """Where the socket is on the host."""
    return f"{container.run_dir}/notify"


def make_directory(container: Container) -> None:
    record.make_directory(directory(container))
    os.chmod(directory(container), 0o711)


class Listener:
    """The socket that the container finds; who may speak there are the container's own users."""

    def __init__(self, container: Container) -> None:
        self.deadline_s = math.inf  # until when it may take
        path = f"{directory(container)}/{SOCKET}"
        kind = _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
        self._link = _socket.socket(_socket.AF_UNIX, kind)
        self._link.bind(path)
        os.chmod(path, 0o666)
        self.fd = self._link.fileno()

    def is_ready(self) -> bool:
        """Whether it has said so; passes on what it says of its progress."""
        ready = False
        while (message := self._next()) is not None:
            words = dict(line.partition("=")[::2] for line in message.split("\n"))
            if status := _printable(words.get("STATUS", "")):
                notify.status(status)
            if (span := words.get("EXTEND_TIMEOUT_USEC", "")[:_SPAN_DIGITS_MAX]).isdigit():
                notify.notify(f"EXTEND_TIMEOUT_USEC={span}")
                self.deadline_s = max(self.deadline_s, time.monotonic() + int(span) / 1e6)
            ready = ready or words.get("READY") == "1"
        return ready

    def _next(self) -> str | None:
        try:  # descriptors that come with it are closed by the kernel: nobody waits at a barrier
            return self._link.recv(_MESSAGE_MAX_BYTES).decode("utf-8", "replace")
        except BlockingIOError:
            return None

    def close(self) -> None:
        self._link.close()


def _printable(text: str) -> str:
    return "".join(char for char in text if char.isprintable())[:_STATUS_MAX]


class Keeper:
    """The parent of a container that runc creates, until systemd is to be.

    systemd would not get the exit status of a process that is another's child, and would say so in
    the journal if it were told to supervise one: the helper cannot be the parent itself.
    """

    def __init__(self, create: "Callable[[], Child]") -> None:
        """create starts runc, in the keeper."""
        self.fd, writer = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _keep(create, writer, parent)
        os.close(writer)
        self._said = b""
        self.is_gone = False

    def created(self, timeout_s: float) -> int | None:
        """runc's exit status; None when it took too long."""
        if not process.readable(self.fd, timeout_s):
            process.kill_tree(self._pid)
            return None
        words = self._line()
        return int(words[1]) if words else os.EX_SOFTWARE

    def ended(self, pid: int) -> int | None:
        """The exit status of the container's init, None while it lives; waits for nothing."""
        while not self.is_gone and process.readable(self.fd, 0):
            words = self._line()
            if words[:1] == [str(pid)]:
                return int(words[1])
        return None

    def release(self) -> None:
        """Make systemd the parent of what still lives."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def _line(self) -> list[str]:
        while b"\n" not in self._said:
            chunk = os.read(self.fd, 4096)
            if not chunk:
                self.is_gone = True
                return []
            self._said += chunk
        line, _, self._said = self._said.partition(b"\n")
        return line.decode("ascii").split(" ")


def _keep(create: "Callable[[], Child]", writer: int, parent: int) -> None:
    """The keeper's life."""
    import prctl

    status = os.EX_SOFTWARE
    try:
        prctl.set_child_subreaper(1)
        prctl.set_pdeathsig(signal.SIGKILL)
        if os.getppid() == parent:
            os.write(writer, f"runc {create().wait()}\n".encode())
            while True:
                pid, code = os.waitpid(-1, 0)
                os.write(writer, f"{pid} {os.waitstatus_to_exitcode(code)}\n".encode())
    except ChildProcessError:
        status = os.EX_OK  # all have ended
    finally:
        os._exit(status)


def _stopped(number: int, frame: object) -> None:
    raise StoppedError("it is to end before it said that it is ready")


def wait(listener: Listener, keeper: Keeper, pid: int, timeout_s: float) -> None:
    """Wait until the container is ready, for as long as that may take.

    systemd cannot be trusted with this time: it has been asked for more, and never takes that
    back. Raises EndedEarlyError; StoppedError when the time is over, or systemd asks for an end.
    """
    listener.deadline_s = time.monotonic() + timeout_s
    signal.signal(signal.SIGTERM, _stopped)
    poller = select.poll()
    for fd in (listener.fd, keeper.fd):
        poller.register(fd, select.POLLIN)
    ready = False
    while not ready:
        left_s = listener.deadline_s - time.monotonic()
        if left_s <= 0:
            raise StoppedError(
                f"it did not say within {timeout_s:.0f} s that it is ready",
                "TimeoutStartSec= of its unit is how long that may take",
            )
        poller.poll(min(left_s, _POLL_MAX_S) * 1000)
        ready = listener.is_ready()
        status = keeper.ended(pid)
        if status is not None:
            raise EndedEarlyError(status)
        if keeper.is_gone:
            raise RuntimeFailedError("what kept it until it is ready was killed", "start again")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    keeper.release()
    if (status := keeper.ended(pid)) is not None:
        raise EndedEarlyError(status)
