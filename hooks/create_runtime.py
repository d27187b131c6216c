"""Before the program of a container runs: record that it runs, later than any image of it.

createRuntime hook (config.md of the OCI runtime specification) for bundles that people run with
runc themselves; the unit torpor@NAME records its own starts. Where it fails, as while the unit
holds the container's lock, runc gives up the container. It never touches images: a record that
says RUNNING is what makes them void.
"""

import os

from torpor import oci_state, state
from torpor.container import Container, valid_name
from torpor.errors import TorporError
from torpor.lock import Lock
from torpor.oci_state import OciState
from torpor.state import State

# What the next start may go by, or a person may want to look at.
_VOIDED = {
    state.DUMPING: "was being dumped",
    state.COMMITTED: "was asleep",
    state.READY: "was asleep",
    state.RESTORING: "was waking",
    state.DAMAGED: "was damaged",
}


def main() -> None:
    who = "torpor"
    try:
        told = oci_state.read(0)
        if valid_name(told.id):
            who = f"torpor: {told.id}"
            _record(Container(told.id), told)
    except (TorporError, OSError) as error:
        from torpor.talk import report  # seldom needed

        report(who, error)
        os._exit(1)
    os._exit(0)


def _record(container: Container, told: OciState) -> None:
    # While a new container is made its status is "creating".
    restored = told.status == oci_state.STOPPED and told.pid > 0
    with Lock(container, wait=False):
        if restored:
            _set_up_loopback(told.pid)
        _record_running(container, "restored by hand" if restored else "run by hand")


def _set_up_loopback(pid: int) -> None:
    from torpor import loopback  # a new container needs none of it

    loopback.set_up_in(pid)


def _record_running(container: Container, how: str) -> None:
    before = state.read(container)
    if before.name == state.REPLACING:
        raise TorporError(
            f"the files of {container.name} are being replaced by those of a snapshot",
            f"start it as torpor's: systemctl start {container.unit}",
        )
    if state.plan(before) == state.AWAY:
        raise TorporError(
            f"{container.name} is {before.reason}", f"see: torpor status {container.name}"
        )
    was = _VOIDED.get(before.name, "")
    reason = f"{how}: generation {before.generation} {was} and is void" if was else how
    try:
        state.write(container, before.become(state.RUNNING, reason))
    except OSError as error:
        _go_on_unrecorded(container, before, error)
    else:
        if was:
            _warn(
                f"{container.name}: generation {before.generation} {was} and is void now: "
                f"its container was {how}"
            )


def _go_on_unrecorded(container: Container, before: State, error: OSError) -> None:
    """Nothing is lost without a record, unless an older memory could then be taken for the last."""
    if before.name in _VOIDED:
        raise TorporError(
            f"cannot make generation {before.generation} void: {error}",
            f"it would wake later than this run: make room at {container.state_dir}, "
            f"or forget it: torpor discard {container.name}",
        ) from error
    _warn(f"{container.name}: its run is not recorded: {error}")


def _warn(text: str) -> None:
    from torpor.journal import warn  # seldom needed, and each import costs 2 % of the whole run

    warn(text)
