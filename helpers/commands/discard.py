"""Forget the memory of a container that sleeps."""

import argparse
import os

from torpor import events, fault, images, networking, state
from torpor.container import Container
from torpor.errors import RecordError, TorporError
from torpor.lock import Lock
from torpor.systemd import Unit
from torpor.talk import warn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the container")
    parser.add_argument(
        "--generation",
        metavar="N",
        type=int,
        help="forget snapshot N instead, and nothing else; it may be running",
    )


def run(options: argparse.Namespace) -> int:
    container = Container(options.name)
    with Lock(container, wait=False):
        if options.generation is not None:
            _forget_snapshot(container, options.generation)
        elif forget(container):
            print(f"{container.name}: its memory is forgotten; the next start is fresh")
        else:
            print(f"{container.name}: there is no memory to forget")
    return 0


def _forget_snapshot(container: Container, number: int) -> None:
    from torpor import snapshots

    if reason := snapshots.remove(snapshots.load(container, number).snapshot):
        raise TorporError(reason)
    print(f"{container.name}: snapshot {number} is forgotten")


def forget(container: Container) -> bool:
    """Void the record first, durably; only then remove the rest. False: nothing was there.

    What a killed one has left is removed by another.
    """
    try:
        current = state.read(container)
    except RecordError:
        current = state.State(state.DAMAGED)
    if current.name == state.REPLACING or os.path.exists(container.rollback_path):
        current = _after_rollback(container, current)
    if current.name == state.RUNNING and Unit(container).active_state != "inactive":
        raise TorporError(
            f"{container.name} is running: its memory is in its processes",
            f"to end it without sleeping: torpor stop --fresh {container.name}",
        )
    newest = max([current.generation, *images.generations(container)])
    had_memory = current.name in (*state.RESTORABLE, state.DAMAGED, state.MOVED)
    if had_memory:
        discarded = current.become(state.NONE, "discarded by hand", generation=newest)
        state.write(container, discarded)
        fault.point("discarded")
        why = "its memory was discarded by hand"
        events.note(events.DISCARDED, container, why, generation=newest)
    if had_memory or _is_down(container):
        warn(container.name, networking.leave(container))
    for number in images.generations(container):
        images.remove(container.generation_dir(number))
    images.remove(f"{container.state_dir}/aside")
    return had_memory


def _after_rollback(container: Container, current: state.State) -> state.State:
    """Its files are those of one moment then, and nothing is kept of before."""
    from torpor import rollback

    settled = rollback.settle(container, current)
    rollback.tidy(container)
    return settled


def _is_down(container: Container) -> bool:
    """Whether it does not run; only asked where there is a network that it would lose."""
    return networking.has_any(container) and Unit(container).is_down
