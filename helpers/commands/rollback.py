"""Put a container that does not run back to a snapshot: files now, memory when it starts."""

import argparse

from torpor import events, leaving, process, rendering, rollback, runc, snapshots, state
from torpor.container import Container
from torpor.errors import RecordError, TorporError
from torpor.lock import Lock
from torpor.snapshots import Known
from torpor.state import State
from torpor.systemd import Unit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the container")
    parser.add_argument(
        "generation",
        metavar="GENERATION",
        type=int,
        nargs="?",
        help="the number of a snapshot, as torpor status shows it; default: the newest",
    )
    parser.add_argument(
        "--stop", action="store_true", help="stop the container first, as systemctl does"
    )


def run(options: argparse.Namespace) -> int:
    container = Container(options.name)
    _choose(container, options.generation)
    if options.stop:
        process.spawn(["systemctl", "stop", container.unit]).wait()
    with Lock(container, wait=False):
        _require_down(container)
        _go_back(container, options.generation)
    return 0


def _require_down(container: Container) -> None:
    runc.check_ours(container)
    unit = Unit(container)
    if not unit.is_down:
        raise TorporError(
            f"{container.name} is {unit.active_state}: its files cannot be replaced below it",
            f"stop it first: systemctl stop {container.unit}; or add --stop",
        )


def _go_back(container: Container, wanted: int | None) -> None:
    current = rollback.settle(container, _read_state(container))
    if state.plan(current) == state.AWAY:
        raise leaving.refusal(container, current)
    known = _choose(container, wanted)
    inputs = rendering.inputs_of_today(container)
    why = f"rolled back to snapshot {known.number}"
    ready = rollback.go_back(container, known, inputs, current, why, lambda: None)
    events.note(events.WENT_BACK, container, why, generation=known.number)
    had = current.name in state.RESTORABLE
    instead = f"; generation {current.generation}, in which it slept, is void" if had else ""
    print(
        f"{container.name}: back at snapshot {known.number}: its files are in place, its memory is "
        f"generation {ready.generation}{instead}; go on with: systemctl start {container.unit}"
    )


def _read_state(container: Container) -> State:
    try:
        return state.read(container)
    except RecordError:
        return State()


def _choose(container: Container, wanted: int | None) -> Known:
    if wanted is not None:
        return snapshots.load(container, wanted)
    if found := snapshots.known(container):
        return found[-1]
    raise TorporError(
        f"{container.name} has no snapshot", f"one is taken by: torpor snapshot {container.name}"
    )
