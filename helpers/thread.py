"""A thread by the C module below `threading`, which imports collections and functools: a fifth of
what Python itself takes to start.
"""

import _thread
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


_FIRST_FD, _LAST_FD = 3, 1 << 30


class Thread:
    """Runs work, which must not raise. It does not keep this process from ending.

    It has open files of its own and none of this process's but the standard ones: what a program
    inherits that is spawned meanwhile, execve(2) closes. Where that hangs, as with a file whose
    server is gone, so does whoever reads /proc/PID/stat (exec_update_lock in the kernel): systemd.
    Its root and working directory are its own too: else this process could not enter another mount
    namespace meanwhile (setns(2)).
    """

    __slots__ = ("_running", "_work")

    def __init__(self, work: "Callable[[], None]") -> None:
        self._work = work
        self._running = _thread.allocate_lock()
        self._running.acquire()
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        try:
            _part()
            self._work()
        finally:
            self._running.release()

    def ends_within(self, timeout_s: float) -> bool:
        """Wait for its end."""
        if not self._running.acquire(timeout=timeout_s):
            return False
        self._running.release()
        return True


def _part() -> None:
    if not hasattr(os, "unshare"):
        return  # an older Python than torpor runs on, as unit tests may
    os.unshare(os.CLONE_FILES | os.CLONE_FS)
    os.closerange(_FIRST_FD, _LAST_FD)
