"""Wake a container that sleeps: the better half of a start.

Whatever goes wrong before its memory may have been used leaves it asleep, or set aside as the
definition's policy says; afterwards it is never restored again.
"""

import os
import time

from torpor import (
    cgroup_tree,
    criu,
    events,
    fault,
    images,
    last_rendering,
    limits,
    mount_flags,
    networking,
    notify,
    payload,
    preparation,
    pump,
    record,
    shm,
    signals,
    state,
)
from torpor.cgroup import Cgroup
from torpor.container import Container
from torpor.errors import (
    HostFaultError,
    ImageError,
    RecordError,
    RestoreCutOffError,
    RestoreError,
    RuntimeFailedError,
    StoppedError,
    TorporError,
)
from torpor.images import Generation, Verification
from torpor.last_rendering import Inputs
from torpor.networking import Network
from torpor.patience import STARTING, Patience, Stall
from torpor.preparation import Plan
from torpor.restore import Restore
from torpor.talk import NOTICE, WARNING, mebibytes, say, warn
from torpor.turns import Turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def wake(
    container: Container, unit_cgroup: str, inputs: Inputs, current: state.State
) -> str | None:
    """Wake the container if it sleeps; returns why it must start fresh, None when it is awake."""
    if state.plan(current) == state.REFUSE:
        return _refuse(container, inputs, current)
    missing = criu.missing()
    if missing:
        raise RuntimeFailedError(missing, "it sleeps on: start it again when that is mended")
    stop_asked = _stop_was_asked()
    try:
        return _restore_or_explain(container, unit_cgroup, inputs, current, stop_asked)
    except StoppedError as error:
        _sleep_on(container, unit_cgroup, error.message)
        return None
    except (ImageError, RestoreError) as error:
        warn(container.name, payload.clear(container, payload.cgroup_of(container, unit_cgroup)))
        return _failed(container, inputs, error)
    except (OSError, HostFaultError) as error:
        # The host's fault, not the images': nothing is counted, and the start can be tried again.
        if state.read(container).name == state.RESTORING:
            _sleep_on(container, unit_cgroup, str(error))
        raise
    finally:
        signals.by_default(signals.TERM)


def _restore_or_explain(
    container: Container,
    unit_cgroup: str,
    inputs: Inputs,
    current: state.State,
    stop_asked: "Callable[[], bool]",
) -> str | None:
    generation = Generation(container, current.generation)
    manifest = images.read_manifest(container, generation)
    changed = _what_changed(container, inputs, manifest)
    if changed:
        return _outdated(container, current, changed)
    while state.plan(current) != state.GIVE_UP:
        sleeper = _Sleeper(container, unit_cgroup, generation, manifest)
        if _volumes_changed(sleeper, manifest):
            return _outdated(container, current, "volumes")
        keeps_connections = bool(sleeper.tcp_lock)
        try:
            with networking.begin_again(
                container, sleeper.plan, generation, keeps_connections=keeps_connections
            ) as network:
                warn(container.name, network.warnings)
                _prepare(container, sleeper.plan, stop_asked)
                with _turn(container, stop_asked):
                    _restore(sleeper, network, inputs, current, stop_asked)
            return None
        except RestoreCutOffError as error:
            current = _cut_off(container, sleeper.cgroup, error)
    raise ImageError(f"{current.attempt} restores of it were cut off")


class _Sleeper:
    """What is to be woken, as far as its checkpoint tells."""

    def __init__(
        self,
        container: Container,
        unit_cgroup: str,
        generation: Generation,
        manifest: images.Manifest,
    ) -> None:
        self.container = container
        self.generation = generation
        # Of the plan too, before it is followed.
        self.verification = Verification(generation, manifest)
        self.plan = _read_plan(generation)
        self.cgroup = payload.planned_cgroup(self.plan, unit_cgroup)
        self.tcp_lock = _tcp_lock(manifest)


def _read_plan(generation: Generation) -> Plan:
    try:
        return preparation.read(generation.plan)
    except RecordError as error:
        raise ImageError(str(error)) from error


def _read_cgroups(generation: Generation) -> cgroup_tree.Saved:
    try:
        return cgroup_tree.Saved(generation.cgroups)
    except RecordError as error:
        raise ImageError(str(error)) from error


def _read_flags(generation: Generation) -> mount_flags.Saved:
    try:
        return mount_flags.Saved(generation.mounts)
    except RecordError as error:
        raise ImageError(str(error)) from error


def _volumes_changed(sleeper: _Sleeper, manifest: images.Manifest) -> bool:
    """Whether other volumes than those that it fell asleep with are there; none is an error."""
    now = preparation.durable_identity(sleeper.container, sleeper.plan)
    return manifest.facts.get("volumes", "") != now


def _tcp_lock(manifest: images.Manifest) -> str:
    """How connections were held back that go on now; after a reboot nobody waits for them."""
    if manifest.facts.get("boot") != state.boot_id():
        return ""
    return manifest.facts.get("tcp-lock", "")


def _prepare(container: Container, plan: Plan, stop_asked: "Callable[[], bool]") -> None:
    """Its failure says nothing about the images: whoever mends it finds the container asleep."""
    # A rendering may have mounted the root by another plan, as with other subordinate ids.
    warn(container.name, preparation.undo(container))
    needed = preparation.takes_long(plan)
    with notify.Busy("preparing its files", needed=needed, unless=stop_asked):
        warn(container.name, preparation.prepare(container, plan))


def _turn(container: Container, stop_asked: "Callable[[], bool]") -> Turn:
    """Its turn to be restored."""

    progress = notify.Progress("waiting until others are awake")

    def wait() -> None:
        if stop_asked():
            raise StoppedError("stopped before it woke")
        progress()

    return Turn(lambda: Patience(container, STARTING).limit_s / 3, wait)


def _cut_off(container: Container, cgroup: Cgroup, error: RestoreCutOffError) -> state.State:
    """Clean up after a restore that was killed; its error again if the memory was used by then."""
    warn(container.name, payload.clear(container, cgroup))
    current = state.read(container)
    if current.name != state.RESTORING:
        raise RestoreError(error.message, error.hint) from error
    say(f"{container.name}: {error.message}: attempt {current.attempt}", WARNING)
    return current


def _stop_was_asked() -> "Callable[[], bool]":
    """From now on a SIGTERM, as from ``systemctl stop``, is noted instead of obeyed."""
    asked: list[int] = []
    signals.on(signals.TERM, lambda number, _: asked.append(number))
    return lambda: bool(asked)


def _sleep_on(container: Container, unit_cgroup: str, why: str) -> None:
    warn(container.name, payload.clear(container, payload.cgroup_of(container, unit_cgroup)))
    current = state.read(container)
    if current.name == state.RESTORING:
        try:
            state.write(container, current.become(state.READY, why))
        except OSError as error:  # RESTORING is as good a record, but for the attempt it counts
            say(f"{container.name}: {error}", WARNING)
    say(f"{container.name}: {why}: it sleeps on", NOTICE)


def _what_changed(container: Container, inputs: Inputs, manifest: images.Manifest) -> str:
    if manifest.facts.get("inputs") != inputs.digest:
        return "definition"
    try:
        rootfs = last_rendering.rootfs_identity(container, inputs)
    except FileNotFoundError:  # what it wrote over its image was removed
        rootfs = ""
    if manifest.facts.get("rootfs") != rootfs:
        return "rootfs"
    return ""


def _restore(
    sleeper: _Sleeper,
    network: Network,
    inputs: Inputs,
    current: state.State,
    stop_asked: "Callable[[], bool]",
) -> None:
    if stop_asked():
        raise StoppedError("stopped before it woke")
    began_s = time.monotonic()
    container, generation, cgroup = sleeper.container, sleeper.generation, sleeper.cgroup
    number = generation.number
    size = mebibytes(sleeper.verification.size_bytes)
    restoring = current.become(
        state.RESTORING, f"restoring generation {number}", attempt=current.attempt + 1
    )
    state.write(container, restoring)
    fault.point("restoring")
    has_moved = _lay_saved_bundle(sleeper)
    _admit_owner(generation, inputs)

    def consume() -> None:
        state.write(container, restoring.become(state.CONSUMED, f"generation {number} resumed"))

    progress = notify.Progress(f"restoring generation {number}, {size}", unless=stop_asked)
    patience = Patience(container, STARTING)
    shm.load(container, sleeper.plan, generation, progress, Stall(patience))
    cgroups = _read_cgroups(generation)
    restore = Restore(
        container,
        generation,
        sleeper.verification,
        cgroup,
        cgroups,
        _read_flags(generation),
        progress,
        stop_asked,
        network,
        patience,
        tcp_lock=sleeper.tcp_lock,
        systemd_cgroup=bool(preparation.first(sleeper.plan, preparation.SYSTEMD)),
        has_moved=has_moved,
    )
    pid = restore.run(pump.start(container), consume)
    fault.point("restored")
    warn(container.name, generation.shut())
    network.release()
    # Not before all is restored: CRIU is in that cgroup, and needs more than what it restores.
    warn(container.name, cgroups.limit(cgroup) + limits.settle(cgroup, inputs.limits))
    took_s = time.monotonic() - began_s
    text = f"restored generation {number}, {size}, in {took_s:.2f} s"
    warn(container.name, payload.make_known(container, pid, inputs))
    if preparation.first(sleeper.plan, preparation.INIT):
        _refresh(cgroup, pid)
    notify.main_pid(pid, "READY=1", f"STATUS={text}").wait()
    cgroup.thaw()
    if stop_asked():  # too late to sleep on; systemd asked the helper, and will not ask again
        os.kill(pid, inputs.stop_signal)
    events.tell(
        events.AWAKE,
        container,
        text,
        generation=number,
        image_bytes=sleeper.verification.size_bytes,
        took_s=took_s,
    )
    try:
        running = restoring.become(state.RUNNING, f"woke from generation {number}")
        state.write(container, running, size_bytes=sleeper.verification.size_bytes)
        fault.point("awake")
        if inputs.keep_logs:
            criu.keep_log(generation.work, "restore", container.log_path("restore"))
    except OSError as error:  # CONSUMED is as good a record, and it runs
        say(f"{container.name}: {error}", WARNING)
    images.forget_older(container, inputs.keep - 1)
    if os.path.exists(container.rollback_path):
        from torpor import rollback

        rollback.tidy(container)


def _refresh(cgroup: Cgroup, pid: int) -> None:
    """Let a systemd come to itself before others are told that it is awake.

    In this time its end would be missed; that of a systemd takes longer.
    """
    from torpor import furnishing

    refresh = furnishing.Refresh(pid, cgroup.pids())
    cgroup.thaw()
    refresh.wait()


def _lay_saved_bundle(sleeper: _Sleeper) -> bool:
    """The config the container ran with: a newer torpor's defaults must not cost its memory.

    Only what this boot makes anew is replaced: the cgroup of a unit that moved to another slice,
    in which case it returns True.
    """
    saved = record.read_bytes(sleeper.generation.config)
    if saved is None:
        raise ImageError(f"{sleeper.generation.config} is missing")
    path = sleeper.cgroup.name
    elsewhere = (preparation.CGROUP, preparation.CGROUP_IN_UNIT)
    follows_unit = not any(preparation.first(sleeper.plan, key) for key in elsewhere)
    has_moved = follows_unit and f'"cgroupsPath":"{path}"'.encode() not in saved
    if has_moved:
        saved = _moved(saved, path)
    payload.lay_bundle(sleeper.container, saved, sleeper.plan)
    return has_moved


def _moved(saved: bytes, cgroup_path: str) -> bytes:
    import json

    config = json.loads(saved)
    config["linux"]["cgroupsPath"] = cgroup_path
    return json.dumps(config).encode()


def _admit_owner(generation: Generation, inputs: Inputs) -> None:
    """Let the root of a user namespace read its images until they are restored.

    CRIU opens some in the new namespace before it has become that user; as long as no ids are
    mapped there, the host's root gets no further than an owner.
    """
    uid, gid = inputs.owner
    if uid:
        generation.admit(gid)


def _failed(container: Container, inputs: Inputs, error: TorporError) -> str:
    """A restore failed before the container's code could run, or nobody can tell any more."""
    current = state.read(container)
    events.tell(
        events.NOT_RESTORED,
        container,
        f"cannot restore: {error.message}",
        generation=current.generation,
        hint=error.hint,
    )
    if current.name == state.CONSUMED:
        return _damaged(container, inputs, current, "the restore failed after its memory was used")
    if isinstance(error, ImageError) or inputs.start_fresh:
        return _damaged(container, inputs, current, error.message)
    # Sound images that CRIU cannot restore today, perhaps for a reason that can be mended.
    number = current.generation
    state.write(container, current.become(state.READY, f"not restored: {error.message}"))
    raise RestoreError(
        f"generation {number} was not restored and is kept",
        f"restore-failure is 'fail': mend the cause and start again, or forget its memory with "
        f"'torpor discard {container.name}'",
    )


def _refuse(container: Container, inputs: Inputs, current: state.State) -> str:
    """Its images were set aside in an earlier start; what the policy says today counts."""
    number = current.generation
    why = f"generation {number} could not be restored: {current.reason}"
    if inputs.start_fresh:
        return why
    raise ImageError(
        why, f"restore-failure is 'fail': to start fresh, run 'torpor discard {container.name}'"
    )


def _damaged(container: Container, inputs: Inputs, current: state.State, why: str) -> str:
    """Set the images aside and follow the policy."""
    number = current.generation
    place = images.set_aside(container, number)
    kept = f"; its images are kept aside in {place}" if place else ""
    if inputs.start_fresh:
        state.write(container, current.become(state.NONE, f"generation {number}: {why}"))
        text = f"generation {number} is not restored{kept}"
        events.tell(events.SET_ASIDE, container, text, generation=number)
        return f"generation {number} was not restored: {why}"
    state.write(container, current.become(state.DAMAGED, why))
    raise ImageError(
        f"generation {number} cannot be restored: {why}{kept}",
        f"restore-failure is 'fail': to start fresh, run 'torpor discard {container.name}'",
    )


def _outdated(container: Container, current: state.State, changed: str) -> str:
    number = current.generation
    place = images.set_aside(container, number)
    why = f"the {changed} changed after generation {number} was taken"
    state.write(container, current.become(state.NONE, why))
    text = f"{why}: starting fresh; its images are kept aside in {place}"
    events.tell(events.SET_ASIDE, container, text, generation=number)
    return why
