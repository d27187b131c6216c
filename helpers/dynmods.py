"""Moves of processes between cgroups that do not wait, for the short time of a start.

The kernel moves a process under a lock that forks take too, and cheaply: whoever wants it for a
move first waits until no processor is in the midst of a fork, 6 to 30 ms. If it was just taken,
nobody waits (rcu_sync_enter() in kernel/rcu/sync.c, called by cgroup_attach_lock()). So one helper
at a time takes it every few milliseconds, by a move to where it already is. That is what the mount
option "favordynmods" of cgroup2 does for a whole host and for good.
"""

import fcntl
import os
import time

from torpor import record
from torpor.cgroup import Cgroup, own_path
from torpor.container import RUN_ROOT
from torpor.errors import RuntimeFailedError
from torpor.thread import Thread

_EVERY_S = 0.008  # after 10 ms without a move the kernel waits again
_LONGEST_S = 10.0  # what takes longer does not care
_ITSELF = b"0"  # the writer (cgroup-v2.rst)


def favor() -> None:
    """From now on, as long as this process lives."""
    Thread(_favor)


def _favor() -> None:
    """Without it all is as it should be, but slower."""
    try:
        record.make_directory(f"{RUN_ROOT}/.locks")
        turn = os.open(f"{RUN_ROOT}/.locks/.dynmods", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        procs = os.open(f"{Cgroup(own_path()).path}/cgroup.procs", os.O_WRONLY)
        _move_again_and_again(turn, procs)
    except (OSError, RuntimeFailedError):
        pass


def _move_again_and_again(turn: int, procs: int) -> None:
    until_s = time.monotonic() + _LONGEST_S
    while time.monotonic() < until_s:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(procs, _ITSELF)
        except BlockingIOError:
            pass  # another helper does it, for all
        time.sleep(_EVERY_S)
