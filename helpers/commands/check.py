"""Check a definition; or, by a dump that leaves it running, whether its container would sleep."""

import argparse
import signal
import time

from torpor import (
    checkpoint,
    images,
    last_rendering,
    limits,
    payload,
    preparation,
    rendering,
    runc,
    state,
)
from torpor.checkpoint import Dump
from torpor.container import Container
from torpor.errors import ContainerLostError, TorporError
from torpor.lock import Lock
from torpor.patience import STOPPING, Patience
from torpor.systemd import Unit
from torpor.talk import mebibytes, warn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the container")
    parser.add_argument(
        "--checkpoint",
        action="store_true",
        help="dump the running container and throw the images away: would it sleep?",
    )


def run(options: argparse.Namespace) -> int:
    container = Container(options.name)
    _, warnings = rendering.check(container)
    warn(container.name, warnings)
    print(f"{container.name}: {container.definition_path} is right")
    if options.checkpoint:
        with Lock(container, wait=False):
            _dry_run(container)
    return 0


def _dry_run(container: Container) -> None:
    unit = Unit(container)
    current = state.read(container)
    if unit.active_state != "active" or current.name != state.RUNNING:
        raise TorporError(
            f"{container.name} is not running: there is nothing to dump",
            f"start it first: systemctl start {container.unit}",
        )
    inputs = last_rendering.load(container)
    if inputs is not None and inputs.obstacles:
        raise TorporError(
            f"{container.name} would not sleep: {inputs.obstacles[0][0]}", inputs.obstacles[0][1]
        )
    cgroup = payload.cgroup_of(container, unit.cgroup)
    checkpoint.preflight(container, cgroup)
    tcp_lock = checkpoint.tcp_lock(inputs) if inputs is not None else ""
    runc.check_ours(container)
    generation = images.next_generation(container, current.generation)
    dumping = current.become(state.DUMPING, "check --checkpoint", generation=generation.number)
    # A lost terminal or Ctrl-C must not leave it frozen.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    state.write(container, dumping)
    began_s = time.monotonic()
    lifted: list[tuple[str, str]] = []
    try:
        generation.make()
        patience = Patience(container, STOPPING)
        checkpoint.freeze(cgroup, preparation.read(container.plan_path), patience)
        lifted = limits.lift(cgroup)
        dump = Dump(container, generation, cgroup, lambda: None, patience, tcp_lock)
        dump.run(lambda: None, leave_running=True)
        size = generation.size_bytes()
    except ContainerLostError as error:
        cgroup.kill(payload.KILL_TIMEOUT_S)
        state.write(container, dumping.become(state.NONE, error.message))
        raise
    finally:
        images.remove(generation.path)
        try:
            if state.read(container).name == state.DUMPING:
                running = dumping.become(state.RUNNING, current.reason)
                state.write(container, running, why="check --checkpoint left it running")
        finally:
            warn(container.name, limits.put_back(cgroup, lifted))
            cgroup.thaw()
    took = time.monotonic() - began_s
    print(f"{container.name}: would sleep: {mebibytes(size)}, dumped in {took:.2f} s; it goes on")
