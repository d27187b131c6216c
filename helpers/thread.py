"""A thread by the C module below `threading`, which imports collections and functools: a fifth of
what Python itself takes to start.
"""

import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Thread:
    """Runs work, which must not raise. It does not keep this process from ending."""

    __slots__ = ("_running", "_work")

    def __init__(self, work: "Callable[[], None]") -> None:
        self._work = work
        self._running = _thread.allocate_lock()
        self._running.acquire()
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._running.release()

    def ends_within(self, timeout_s: float) -> bool:
        """Wait for its end."""
        if not self._running.acquire(timeout=timeout_s):
            return False
        self._running.release()
        return True
