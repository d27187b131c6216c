"""Child processes: spawn, wait with a deadline, look up.

Not with subprocess, which takes 15 ms to import.
"""

import errno
import os
import select
import time

from torpor import signals
from torpor.umask import Umask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_POLL_MAX_MS = (1 << 31) - 1  # poll(2) takes an int
_COLLECTED_MAX_BYTES = 64 << 20
_GONE_S = 1.0
_REAP_S = 5.0  # one that hangs in the kernel does not end, not even by SIGKILL
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Child:
    """A spawned child, watched through its pidfd."""

    __slots__ = ("fd", "pid", "status")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fd = os.pidfd_open(pid)
        self.status: int | None = None  # as os.waitstatus_to_exitcode: negative for a signal

    def poll(self) -> int | None:
        """Its exit status when it has ended, else None."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._ended(status)
        return self.status

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for its end; None when the time is over."""
        if self.status is None:
            if timeout_s is not None and not readable(self.fd, timeout_s):
                return None
            self._ended(os.waitpid(self.pid, 0)[1])
        return self.status

    def kill(self) -> None:
        """End it at once and reap it; one that hangs in the kernel is left to that."""
        if self.status is None:
            signals.send(self.fd, signals.KILL)
            self.wait(_REAP_S)

    def kill_tree(self) -> None:
        """As kill(), and all below it."""
        if self.status is None:
            kill_tree(self.pid)
            self.wait(_REAP_S)

    def _ended(self, status: int) -> None:
        self.status = os.waitstatus_to_exitcode(status)
        os.close(self.fd)


def spawn(
    argv: list[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    env: dict[str, str] | None = None,
    umask: int | None = None,
) -> Child:
    """Start a program found on PATH; what is not given is inherited, but for stdin: /dev/null."""
    actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = []
    if stdin is None:
        actions.append((os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0))
    else:
        actions.append((os.POSIX_SPAWN_DUP2, stdin, 0))
    if stdout is not None:
        actions.append((os.POSIX_SPAWN_DUP2, stdout, 1))
    if stderr is not None:
        actions.append((os.POSIX_SPAWN_DUP2, stderr, 2))
    # Python ignores SIGPIPE; a program that inherits this would not notice a closed pipe.
    # A hook may be run without any PATH, which posix_spawnp(3) would search.
    program = argv[0] if "/" in argv[0] else find(argv[0])
    if not program:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
    with Umask(umask):
        pid = os.posix_spawn(
            program, argv, environment(env), file_actions=actions, setsigdef=[signals.PIPE]
        )
    return Child(pid)


def environment(more: dict[str, str] | None) -> dict[str, str]:
    """That of this process, with more; it always has a PATH."""
    return {"PATH": PATH, **os.environ, **(more or {})}


def output(argv: list[str], timeout_s: float = 10.0) -> tuple[int, str]:
    """Run a program to its end: exit status (-9 when it took too long) and standard output."""
    reader, writer = os.pipe()
    try:
        child = spawn(argv, stdout=writer)
    except OSError as error:
        os.close(reader)
        os.close(writer)
        return 127, f"{argv[0]}: {error.strerror}"
    os.close(writer)
    return collect(child, reader, timeout_s)


def collect(
    child: Child, reader: int, timeout_s: float, max_bytes: int = _COLLECTED_MAX_BYTES
) -> tuple[int, str]:
    """Read a child's pipe to its end, then its status.

    It is killed, with all below it, when the time is over or it says more than max_bytes.
    """
    deadline = time.monotonic() + timeout_s
    chunks = []
    left = max_bytes
    while left > 0 and readable(reader, max(0.0, deadline - time.monotonic())):
        chunk = os.read(reader, 65536)
        if not chunk:
            break
        chunks.append(chunk)
        left -= len(chunk)
    wait_s = max(0.0, deadline - time.monotonic()) if left > 0 else 0.0
    if child.wait(wait_s) is None:
        child.kill_tree()
    os.close(reader)  # only now: closed earlier, it would end who still writes in another way
    status = -signals.KILL if child.status is None else child.status
    return status, b"".join(chunks).decode("utf-8", "replace")


def readable(fd: int, timeout_s: float) -> bool:
    """Wait until a descriptor can be read, or is at its end."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(min(max(0, int(timeout_s * 1000)), _POLL_MAX_MS)))


def find(program: str) -> str:
    """The path of a program, empty when it is not on PATH, whose relative parts do not count."""
    for directory in os.environ.get("PATH", PATH).split(":"):
        if directory[:1] == "/" and os.access(path := f"{directory}/{program}", os.X_OK):
            return path
    return ""


def raise_open_files() -> None:
    """Use the whole limit of open files: CRIU opens one for each shared mapping."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def end_like(status: int) -> "NoReturn":
    """End this process with the exit status, or by the signal, of another (waitstatus_to_exitcode).

    systemd then says of it what it would have said of that other one.
    """
    if status < 0:
        if -status not in (signals.KILL, signals.STOP):
            signals.by_default(-status)
        os.kill(os.getpid(), -status)
    os._exit(abs(status))


def status(pid: int) -> dict[str, list[str]]:
    """The words of each field of /proc/PID/status (proc_pid_status(5)); empty when it is gone."""
    lines = read_small(f"/proc/{pid}/status").splitlines()
    fields = (line.partition(":") for line in lines)
    return {key: words.split() for key, _, words in fields}


def hears(pid: int, number: int) -> bool:
    """Whether a process handles a signal, or blocks it to read it otherwise."""
    fields = status(pid)
    masks = (fields.get(key, ["0"])[0] for key in ("SigCgt", "SigBlk"))
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def open_process(pid: int) -> int | None:
    """A pidfd for any process, None when it is gone."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def read_small(path: str) -> str:
    """A small file of /proc, /sys or ours; empty when it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        return os.read(fd, 65536).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def kill_tree(pid: int, timeout_s: float = _GONE_S) -> None:
    """SIGKILL a process and all below it, parents first so that nobody notices and reacts.

    Each is stopped before its children are looked for: it makes no more of them. They are gone
    then, but for those that hang in the kernel.
    """
    killed: list[int] = []
    _kill_tree(pid, killed)
    deadline_s = time.monotonic() + timeout_s
    for fd in killed:
        readable(fd, max(0.0, deadline_s - time.monotonic()))
        os.close(fd)


def _kill_tree(pid: int, killed: list[int]) -> None:
    if (fd := open_process(pid)) is not None:
        killed.append(fd)
    _signal(pid, signals.STOP)
    below = children(pid)
    _signal(pid, signals.KILL)
    for child in below:
        _kill_tree(child, killed)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def children(pid: int) -> list[int]:
    """The pids of a process's children (proc_pid_task(5))."""
    return [
        int(child)
        for task in _listdir(f"/proc/{pid}/task")
        for child in read_small(f"/proc/{pid}/task/{task}/children").split()
    ]


def read_bytes_below(pid: int) -> int:
    """How much a process and all below it have read so far (rchar in proc_pid_io(5))."""
    total = sum(read_bytes_below(child) for child in children(pid))
    first = read_small(f"/proc/{pid}/io").partition("\n")[0]
    return total + int(first.rpartition(" ")[2] or 0)


def name(pid: int) -> str:
    """The name of a process's program, cut to 15 bytes (proc_pid_comm(5))."""
    return read_small(f"/proc/{pid}/comm").strip()


def has_child(pid: int, comm: str) -> bool:
    """Whether a process has a living child of this name."""
    return any(_lives_as(child, comm) for child in children(pid))


def any_named(comm: str) -> bool:
    """Whether any living process on the host has this name."""
    return any(_lives_as(int(pid), comm) for pid in _listdir("/proc") if pid.isdigit())


def _lives_as(pid: int, comm: str) -> bool:
    return name(pid) == comm and run_state(pid) != "Z"


def run_state(pid: int) -> str:
    """R, S, D, Z ... (proc_pid_stat(5)); empty for one that is gone."""
    return read_small(f"/proc/{pid}/stat").rpartition(") ")[2][:1]


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
