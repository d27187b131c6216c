"""A process that stands in as the unit's main process while the container's own is dumped.

A dumped container dies by SIGKILL, which systemd would take for a failure. The stand-in
is a cat(1) on a pipe: it exits with 0 when this process closes the pipe, or dies.
"""

import os

from torpor.cgroup import Cgroup, supervisor_of
from torpor.errors import CheckpointError

_PID_LENGTH = 10
_HAS_MOVED = b"moved"


class Placeholder:
    """The stand-in, forked twice so that systemd is its parent and sees its end."""

    def __init__(self, unit_cgroup: str) -> None:
        inner, self._outer = os.pipe()
        self._answer, report = os.pipe()
        child = os.fork()
        if child == 0:
            _become_cat(inner, report, supervisor_of(unit_cgroup))
        os.close(inner)
        os.close(report)
        os.waitpid(child, 0)
        self.pid = int(os.read(self._answer, _PID_LENGTH) or b"0")
        if not self.pid:
            os.close(self._answer)
            raise _failed()

    def require_to_last(self) -> None:
        """That it goes on after ExecStop= has ended; CheckpointError where it does not."""
        said = os.read(self._answer, len(_HAS_MOVED))
        os.close(self._answer)
        if said != _HAS_MOVED:
            raise _failed()

    def end(self) -> None:
        os.close(self._outer)


def _failed() -> CheckpointError:
    return CheckpointError("no stand-in for its main process could be started")


def _become_cat(stdin: int, report: int, supervisor: Cgroup) -> None:
    try:
        if os.fork():
            os._exit(0)
        os.write(report, str(os.getpid()).rjust(_PID_LENGTH).encode())
        # Out of .control, which systemd empties when ExecStop= ends. It takes longer than all else
        # here: the kernel waits until no processor looks at the cgroups of before.
        supervisor.write("cgroup.procs", str(os.getpid()))
        os.dup2(stdin, 0)
        os.write(report, _HAS_MOVED)
        os.execvp("cat", ["cat"])
    finally:
        os._exit(1)
