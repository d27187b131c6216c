"""Work that looks at hostile input: done by a child process that has given up every right."""

import importlib
import itertools
import os
import time
from collections.abc import Callable
from typing import NoReturn

from torpor import process

DEADLINE_S = 10.0
_NOBODY = 65534  # kernel.overflowuid: nothing belongs to it
_DESCRIPTOR_MAX = (1 << 31) - 1  # an int of C
_CPU_LIMIT_S = 5
_MEMORY_LIMIT_BYTES = 64 << 20  # beyond what this process has
_ANSWER_LIMIT_BYTES = 16 << 10  # a pipe(7) takes it without a reader


class ConfinedError(Exception):
    """The process without rights did not answer; the text says what became of it."""


def run(work: Callable[[], bytes], keep: tuple[int, ...], deadline_s: float = DEADLINE_S) -> bytes:
    """What work returns in a child process that has no rights, and of all descriptors only keep.

    The child can open no file, start no process and signal none but those of nobody; it ends with
    this one. work must not import anything. Raises ConfinedError if it fails, says more than
    16 KiB or takes longer than deadline_s.
    """
    _import_for_child()
    reader = None
    try:
        reader, writer = os.pipe()
        child = _forked(work, keep, writer)
        try:
            return _heard(child, reader, time.monotonic() + deadline_s)
        finally:
            child.kill()
    except OSError as error:
        raise ConfinedError(f"could not be started: {error.strerror}") from error
    finally:
        if reader is not None:
            os.close(reader)


def _forked(work: Callable[[], bytes], keep: tuple[int, ...], writer: int) -> process.Child:
    import signal

    memory_bytes = _memory_bytes() + _MEMORY_LIMIT_BYTES
    parent = os.getpid()
    # A handler of this process must not run in the child.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        if (pid := os.fork()) == 0:
            _be_confined(work, (*keep, writer), parent, memory_bytes)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(writer)
    return process.Child(pid)


def _import_for_child() -> None:
    """A process that cannot open files cannot import."""
    try:
        for module in ("gc", "prctl", "resource", "signal"):
            importlib.import_module(module)
    except ImportError as error:
        raise ConfinedError(f"cannot give up its rights: {error}") from error


def _memory_bytes() -> int:
    """The size of this process's address space (proc_pid_statm(5))."""
    return int(process.read_small("/proc/self/statm").split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _heard(child: process.Child, reader: int, deadline: float) -> bytes:
    """What child writes until it ends well."""
    chunks = b""
    while process.readable(reader, max(0.0, deadline - time.monotonic())):
        chunk = os.read(reader, _ANSWER_LIMIT_BYTES)
        chunks += chunk
        if len(chunks) > _ANSWER_LIMIT_BYTES:
            raise ConfinedError("says too much")
        if not chunk:
            break
    status = child.wait(max(0.0, deadline - time.monotonic()))
    if status is None:
        raise ConfinedError("took too long")
    if status:
        raise ConfinedError(_end(status))
    return chunks


def _end(status: int) -> str:
    if status == os.EX_NOPERM:
        return "could not give up its rights"
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"


def _be_confined(
    work: Callable[[], bytes], keep: tuple[int, ...], parent: int, memory_bytes: int
) -> NoReturn:
    """The child's life. It leaves without a word to what its parent had opened or registered."""
    import gc

    status = os.EX_NOPERM
    try:
        gc.disable()  # no finalizer of its parent's objects runs here
        _close_all_but(keep)
        _give_up_rights(memory_bytes)
        _hear_signals()
        status = os.EX_SOFTWARE
        if os.getppid() == parent:  # else it died before PDEATHSIG was set
            os.write(keep[-1], work())
            status = os.EX_OK
    finally:
        os._exit(status)


def _close_all_but(keep: tuple[int, ...]) -> None:
    for before, behind in itertools.pairwise((-1, *sorted(keep), _DESCRIPTOR_MAX)):
        os.closerange(before + 1, behind)


def _give_up_rights(memory_bytes: int) -> None:
    """Root's as nobody's; another user has neither a uid to change to nor a root directory."""
    import signal

    import prctl

    if os.geteuid() == 0:
        # In there is nothing but the numbers of its own descriptors, and nothing can be made.
        os.chroot("/proc/self/fdinfo")
        os.chdir("/")
        prctl.capbset.limit()
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    for capabilities in (prctl.cap_effective, prctl.cap_permitted, prctl.cap_inheritable):
        capabilities.limit()
    prctl.set_no_new_privs(1)
    # These two only now: a change of uid undoes them, prctl(2).
    prctl.set_dumpable(0)
    prctl.set_pdeathsig(signal.SIGKILL)
    _limit_resources(memory_bytes)


def _limit_resources(memory_bytes: int) -> None:
    """Nothing can be opened, started or written any more; what is open stays so (getrlimit(2))."""
    import resource

    limits = {
        resource.RLIMIT_NOFILE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: _CPU_LIMIT_S,
        resource.RLIMIT_AS: memory_bytes,
    }
    for limit, value in limits.items():
        _, hard = resource.getrlimit(limit)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (most, most))


def _hear_signals() -> None:
    """Every signal does what it does to a new process."""
    import signal

    signals = signal.valid_signals()
    for number in signals - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
