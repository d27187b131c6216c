"""Start a container: wake it from its images if it sleeps, else make it anew.

ExecStart= of torpor@.service. It ends when the container runs: systemd is then the parent of
the container's init and sees its exit status; nothing of torpor stays but the pump.
"""

import os
import sys

from torpor import (
    dynmods,
    events,
    exec_fifo,
    fault,
    hierarchy,
    images,
    last_rendering,
    limits,
    networking,
    notify,
    payload,
    preparation,
    process,
    pump,
    record,
    rendering,
    runc,
    state,
    timespan,
)
from torpor.cgroup import Cgroup, own_unit, payload_of
from torpor.container import Container
from torpor.errors import (
    EndedEarlyError,
    RecordError,
    RuntimeFailedError,
    StoppedError,
    TorporError,
)
from torpor.last_rendering import Inputs
from torpor.lock import Lock
from torpor.networking import Network
from torpor.preparation import Plan
from torpor.process import Child
from torpor.talk import WARNING, report, say, warn

_CREATE_TIMEOUT_S = 60.0


def main() -> None:
    name = sys.argv[1]
    dynmods.favor()
    try:
        container = Container(name)
        with Lock(container):
            _start(container)
    except EndedEarlyError as error:
        report(name, error)
        process.end_like(error.status)
    except Exception as error:
        os._exit(report(name, error))
    os._exit(0)


def _start(container: Container) -> None:
    unit_cgroup = own_unit()
    cgroup = payload.cgroup_of(container, unit_cgroup)
    warn(container.name, payload.clear(container, cgroup))
    if payload.end_left_over(unit_cgroup):
        warn(container.name, payload.clear(container, cgroup))
    current = _settled(container, _read_state(container))
    if state.plan(current) == state.AWAY:
        from torpor import leaving  # seldom so

        raise leaving.refusal(container, current)
    inputs = _render(container, unit_cgroup)
    if inputs.goes_back and state.has_crashed(current):
        current = _go_back(container, inputs, current)
        inputs = _render(container, unit_cgroup)  # its accounts may be others
    reason: str | None
    if state.plan(current) == state.COLD:
        speaks = current.name in (state.NONE, state.CRASHED)
        reason = current.reason if speaks else current.name.lower()
    else:
        from torpor.commands.wake import wake  # a container that never slept need not wait for it

        reason = wake(container, unit_cgroup, inputs, current)
    if reason is not None:
        _start_fresh(container, unit_cgroup, inputs, reason)
    if os.path.isdir(container.ahead_dir):  # of a move that was cut off
        images.remove(container.ahead_dir)
    if os.path.isdir(container.snapshots_dir):
        from torpor import snapshots

        snapshots.sweep(container)


def _render(container: Container, unit_cgroup: str) -> Inputs:
    busy = notify.Busy("rendering its configuration")
    inputs, warnings = rendering.current(container, payload_of(unit_cgroup).name, busy)
    warn(container.name, warnings)
    return inputs


def _settled(container: Container, current: state.State) -> state.State:
    """After a rollback that was cut off, which is completed or forgotten."""
    if current.name != state.REPLACING and not os.path.exists(container.rollback_path):
        return current
    from torpor import rollback  # seldom needed

    return rollback.settle(container, current)


def _go_back(container: Container, inputs: Inputs, current: state.State) -> state.State:
    """Answer a crash with the newest snapshot, where there is one; what the start goes by then."""
    from torpor import crash

    try:
        return crash.answer(container, inputs, current)
    except (TorporError, OSError) as error:
        if not inputs.start_fresh:
            raise
        say(f"{container.name}: cannot go back to a snapshot: {error}: starting fresh", WARNING)
        return state.read(container)


def _read_state(container: Container) -> state.State:
    """A record that cannot be read proves nothing about any image: there is no memory then."""
    try:
        return state.read(container)
    except RecordError as error:
        newest = max(images.generations(container), default=0)
        if newest:
            images.set_aside(container, newest)
        why = f"{error}: its images are not believed"
        events.tell(events.SET_ASIDE, container, why, generation=newest)
        unknown = state.State(generation=newest).become(state.NONE, str(error))
        state.write(container, unknown)
        return unknown


def _start_fresh(container: Container, unit_cgroup: str, inputs: Inputs, reason: str) -> None:
    plan = preparation.read(container.planned_path)
    warn(container.name, networking.leave(container))  # that of a sleeper which is not woken
    with networking.begin(container, plan) as network:
        with notify.Busy("preparing its files", needed=preparation.takes_long(plan)):
            warn(container.name, preparation.prepare(container, plan))
        _begin(container, payload.planned_cgroup(plan, unit_cgroup), plan, inputs, network, reason)
    images.forget_older(container, inputs.keep - 1)


def _begin(
    container: Container,
    cgroup: Cgroup,
    plan: Plan,
    inputs: Inputs,
    network: Network,
    reason: str,
) -> None:
    current = state.read(container)
    if current.name == state.DUMPING:
        images.remove(container.generation_dir(current.generation))  # half a dump
    running = current.become(
        state.RUNNING,
        "started fresh",
        inputs=inputs.digest,
        rootfs=last_rendering.rootfs_identity(container, inputs),
    )
    state.write(container, running)
    fault.point("running")
    config = record.read_bytes(container.rendered_path)
    if config is None:
        raise RuntimeFailedError(f"{container.rendered_path} is gone", "start again")
    payload.lay_bundle(container, config, plan)
    launch = _launch_and_wait if preparation.first(plan, preparation.NOTIFY) else _launch
    why = f" ({reason})" if reason else ""
    try:
        ready = ["READY=1", f"STATUS=started fresh{why}"]
        launch(container, cgroup, plan, inputs, network, ready)
        events.tell(events.STARTED, container, f"started fresh{why}")
        fault.point("started")
    except (TorporError, OSError):
        warn(container.name, payload.clear(container, cgroup))
        state.write(container, running.become(state.EXITED, "it could not be started"))
        raise


def _launch(
    container: Container,
    cgroup: Cgroup,
    plan: Plan,
    inputs: Inputs,
    network: Network,
    ready: list[str],
) -> None:
    output = pump.start(container)
    child = _create(container, plan, output)
    os.close(output)
    _await(container, child, "create")
    pid = _created(container, cgroup, plan, inputs, network)
    warn(container.name, payload.make_known(container, pid, inputs))
    # Before its program runs: it may end at once, and systemd must know whose status that is.
    notify.main_pid(pid, *ready).wait()
    _run(container, pid)


def _launch_and_wait(
    container: Container,
    cgroup: Cgroup,
    plan: Plan,
    inputs: Inputs,
    network: Network,
    ready: list[str],
) -> None:
    """The container itself says when it is ready."""
    from torpor import readiness

    listener = readiness.Listener(container)
    output = pump.start(container)
    keeper = readiness.Keeper(lambda: _create(container, plan, output))
    os.close(output)
    _require_success(container, "create", keeper.created(_CREATE_TIMEOUT_S))
    pid = _created(container, cgroup, plan, inputs, network)
    warn(container.name, payload.make_known(container, pid, inputs))
    _run(container, pid)
    notify.status("waiting until it is ready")
    try:
        readiness.wait(listener, keeper, pid, timespan.of_unit(container, "TimeoutStartUSec"))
    except StoppedError:
        # As systemd waits for a stop; it may have been asked for more while this started.
        stop_s = timespan.of_unit(container, "TimeoutStopUSec")
        payload.end(cgroup, pid, inputs.stop_signal, stop_s)
        raise
    listener.close()
    notify.main_pid(pid, *ready).wait()


def _create(container: Container, plan: Plan, output: int) -> Child:
    systemd_cgroup = bool(preparation.first(plan, preparation.SYSTEMD))
    return runc.create(container, output, systemd_cgroup=systemd_cgroup)


def _created(
    container: Container, cgroup: Cgroup, plan: Plan, inputs: Inputs, network: Network
) -> int:
    """The container's init, which waits to execute its program."""
    pid = runc.init_pid(container)
    if not pid:
        raise RuntimeFailedError("runc create left no pid")
    fault.point("created")
    if preparation.first(plan, preparation.DELEGATE) and any(inputs.owner):
        hierarchy.delegate(cgroup.path, *inputs.owner)
    if preparation.first(plan, preparation.FURNISH):
        from torpor import furnishing  # most containers need none

        furnishing.for_systemd(pid, inputs.owner)
    network.attach(pid)
    network.finish()
    warn(container.name, limits.settle(cgroup, inputs.limits))
    return pid


def _run(container: Container, pid: int) -> None:
    """Let the container's init execute its program."""
    if runc.has_poststart_hooks(container):
        _await(container, runc.start(container), "start")
    else:
        exec_fifo.release(container, pid, _CREATE_TIMEOUT_S)


def _await(container: Container, child: Child, verb: str) -> None:
    status = child.wait(_CREATE_TIMEOUT_S)
    if status is None:
        child.kill_tree()
    _require_success(container, verb, status)


def _require_success(container: Container, verb: str, status: int | None) -> None:
    """runc's exit status; None when it did not end in time."""
    if status is None:
        raise RuntimeFailedError(f"runc {verb} did not end within {_CREATE_TIMEOUT_S:.0f} s")
    if status:
        raise RuntimeFailedError(f"runc {verb}: {runc.last_error(container)}")
