"""A dump whose helper was killed: whether the container, which stands still since, can go on.

Nobody but the helper lets it go on, so whoever holds the container's lock next does.
"""

import time

from torpor import criu, images, limits, payload, state
from torpor.cgroup import Cgroup
from torpor.container import Container
from torpor.errors import ContainerLostError
from torpor.images import Generation
from torpor.last_rendering import Inputs
from torpor.snapshots import Snapshot
from torpor.snapshots import remove as remove_snapshot
from torpor.state import State

_CRIU_ENDS_S = 30.0
_POLL_S = 0.02


def settle(container: Container, cgroup: Cgroup, current: State, inputs: Inputs) -> State:
    """Let it go on if CRIU left it as it was; the state that it is in then.

    Raises ContainerLostError after it was killed because CRIU did not.
    """
    if current.name != state.DUMPING or not cgroup.pids():
        return current
    _await_criu(cgroup)
    snapshot = Snapshot(container, current.generation)
    generation = Generation(container, current.generation)
    sound = criu.dump_ended_in_order(snapshot.work) and criu.dump_ended_in_order(generation.work)
    if not sound:
        cgroup.kill(payload.KILL_TIMEOUT_S)
    remove_snapshot(snapshot)
    images.remove(generation.path)
    if not sound:
        why = "a checkpoint was cut off in the middle"
        state.write(container, current.become(state.CRASHED, why))
        raise ContainerLostError(f"{why}: its processes could not be trusted, and were killed")
    running = current.become(state.RUNNING, "a checkpoint that was cut off left it running")
    state.write(container, running)
    limits.settle(cgroup, inputs.limits)
    cgroup.thaw()
    return running


def _await_criu(cgroup: Cgroup) -> None:
    """It ends by itself when its helper is dead: its script says no then."""
    deadline_s = time.monotonic() + _CRIU_ENDS_S
    while any(criu.holds(pid) for pid in cgroup.pids()) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
