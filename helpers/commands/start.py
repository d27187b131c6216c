"""Start a container: wake it from its images if it sleeps, else make it anew.

ExecStart= of torpor@.service. It ends when the container runs: systemd is then the parent of
the container's init and sees its exit status; nothing of torpor stays but the pump.
"""

import os
import signal
import sys
import time
from collections.abc import Callable

from torpor import (
    criu,
    fault,
    images,
    notify,
    payload,
    process,
    pump,
    record,
    rendering,
    runc,
    state,
)
from torpor.cgroup import Cgroup, own_unit, payload_of
from torpor.container import Container
from torpor.errors import (
    ImageError,
    RecordError,
    RestoreCutOffError,
    RestoreError,
    RuntimeFailedError,
    StoppedError,
    TorporError,
)
from torpor.images import Generation, Verification
from torpor.lock import Lock
from torpor.process import Child
from torpor.rendering import Inputs
from torpor.restore import Restore
from torpor.talk import NOTICE, WARNING, mebibytes, report, say, say_fault

_CREATE_TIMEOUT_S = 60.0
# A restore asks systemd for more time each half second, this far ahead.
_EXTEND_S = 30


def main() -> None:
    name = sys.argv[1]
    try:
        container = Container(name)
        with Lock(container):
            _start(container)
    except (TorporError, OSError) as error:
        os._exit(report(name, error))
    os._exit(0)


def _start(container: Container) -> None:
    unit_cgroup = own_unit()
    cgroup = payload_of(unit_cgroup)
    _clear(container, cgroup)
    inputs, warnings = rendering.current(container, cgroup.name)
    for warning in warnings:
        say(f"{container.name}: {warning}", WARNING)
    reason = _wake(container, cgroup, inputs, _read_state(container))
    if reason is not None:
        _start_fresh(container, cgroup, inputs, reason)


def _read_state(container: Container) -> state.State:
    """A record that cannot be read proves nothing about any image: there is no memory then."""
    try:
        return state.read(container)
    except RecordError as error:
        newest = max(images.generations(container), default=0)
        if newest:
            images.set_aside(container, newest)
        say(f"{container.name}: {error}: its images are not believed", WARNING)
        unknown = state.State(generation=newest).become(state.NONE, str(error))
        state.write(container, unknown)
        return unknown


def _wake(container: Container, cgroup: Cgroup, inputs: Inputs, current: state.State) -> str | None:
    """Wake the container if it sleeps; returns why it must start fresh, None when it is awake."""
    plan = state.plan(current)
    if plan == state.COLD:
        return current.reason if current.name == state.NONE else current.name.lower()
    if plan == state.REFUSE:
        return _refuse(container, inputs, current)
    missing = criu.missing()
    if missing:
        raise RuntimeFailedError(missing, "it sleeps on: start it again when that is mended")
    stop_asked = _stop_was_asked()
    try:
        return _restore_or_explain(container, cgroup, inputs, current, stop_asked)
    except StoppedError as error:
        _sleep_on(container, cgroup, error.message)
        return None
    except (ImageError, RestoreError) as error:
        _clear(container, cgroup)
        return _failed(container, inputs, error)
    except OSError as error:
        # The host's fault, not the images': nothing is counted, and the start can be tried again.
        if state.read(container).name == state.RESTORING:
            _sleep_on(container, cgroup, str(error))
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _restore_or_explain(
    container: Container,
    cgroup: Cgroup,
    inputs: Inputs,
    current: state.State,
    stop_asked: Callable[[], bool],
) -> str | None:
    generation = Generation(container, current.generation)
    manifest = images.read_manifest(container, generation)
    changed = _what_changed(inputs, manifest)
    if changed:
        return _outdated(container, current, changed)
    while state.plan(current) != state.GIVE_UP:
        try:
            _restore(container, cgroup, inputs, current, generation, manifest, stop_asked)
            return None
        except RestoreCutOffError as error:
            current = _cut_off(container, cgroup, error)
    raise ImageError(f"{current.attempt} restores of it were cut off")


def _cut_off(container: Container, cgroup: Cgroup, error: RestoreCutOffError) -> state.State:
    """Clean up after a restore that was killed; its error again if the memory was used by then."""
    _clear(container, cgroup)
    current = state.read(container)
    if current.name != state.RESTORING:
        raise RestoreError(error.message, error.hint) from error
    say(f"{container.name}: {error.message}: attempt {current.attempt}", WARNING)
    return current


def _clear(container: Container, cgroup: Cgroup) -> None:
    payload.clear(container, cgroup)
    record.make_directory(container.run_dir)


def _stop_was_asked() -> Callable[[], bool]:
    """From now on a SIGTERM, as from ``systemctl stop``, is noted instead of obeyed."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    return lambda: bool(asked)


def _sleep_on(container: Container, cgroup: Cgroup, why: str) -> None:
    payload.clear(container, cgroup)
    current = state.read(container)
    if current.name == state.RESTORING:
        state.write(container, current.become(state.READY, why))
    say(f"{container.name}: {why}: it sleeps on", NOTICE)


def _what_changed(inputs: Inputs, manifest: images.Manifest) -> str:
    if manifest.facts.get("inputs") != inputs.digest:
        return "definition"
    if manifest.facts.get("rootfs") != rendering.rootfs_identity(inputs):
        return "rootfs"
    return ""


def _restore(
    container: Container,
    cgroup: Cgroup,
    inputs: Inputs,
    current: state.State,
    generation: Generation,
    manifest: images.Manifest,
    stop_asked: Callable[[], bool],
) -> None:
    if stop_asked():
        raise StoppedError("stopped before it woke")
    began_s = time.monotonic()
    number = generation.number
    verification = Verification(generation, manifest)
    restoring = current.become(
        state.RESTORING, f"restoring generation {number}", attempt=current.attempt + 1
    )
    state.write(container, restoring)
    fault.point("restoring")
    _lay_saved_bundle(container, cgroup, generation)
    _admit_owner(generation, inputs)

    def consume() -> None:
        state.write(container, restoring.become(state.CONSUMED, f"generation {number} resumed"))

    def progress() -> None:
        elapsed_s = time.monotonic() - began_s
        if elapsed_s > 1:
            size = mebibytes(manifest.size_bytes)
            notify.extend(_EXTEND_S, f"restoring generation {number}, {size}, {elapsed_s:.0f} s")

    size_bytes = manifest.size_bytes
    restore = Restore(container, generation, verification, size_bytes, cgroup, progress, stop_asked)
    pid = restore.run(pump.start(container), consume)
    fault.point("restored")
    took = f"{mebibytes(manifest.size_bytes)}, in {time.monotonic() - began_s:.2f} s"
    text = f"restored generation {number}, {took}"
    notify.main_pid(pid, "READY=1", f"STATUS={text}").wait()
    cgroup.thaw()
    if stop_asked():  # too late to sleep on; systemd asked the helper, and will not ask again
        os.kill(pid, inputs.stop_signal)
    say(f"{container.name}: {text}", NOTICE)
    try:
        state.write(container, restoring.become(state.RUNNING, f"woke from generation {number}"))
        fault.point("awake")
        if inputs.keep_logs:
            criu.keep_log(generation.work, "restore", container.log_path("restore"))
    except OSError as error:  # CONSUMED is as good a record, and it runs
        say(f"{container.name}: {error}", WARNING)
    images.forget_older(container, inputs.keep - 1)


def _lay_saved_bundle(container: Container, cgroup: Cgroup, generation: Generation) -> None:
    """The config the container ran with: a newer torpor's defaults must not cost its memory.

    Only what this boot makes anew is replaced: the cgroup of a unit that moved to another slice.
    """
    saved = record.read_bytes(generation.config)
    if saved is None:
        raise ImageError(f"{generation.config} is missing")
    path = cgroup.name
    if f'"cgroupsPath":"{path}"'.encode() not in saved:
        saved = _moved(saved, path)
    payload.lay_bundle(container, saved)


def _moved(saved: bytes, cgroup_path: str) -> bytes:
    import json

    config = json.loads(saved)
    config["linux"]["cgroupsPath"] = cgroup_path
    return json.dumps(config).encode()


def _admit_owner(generation: Generation, inputs: Inputs) -> None:
    """Let the root of a user namespace read its images: CRIU reads some of them as that user."""
    uid, gid = inputs.owner
    if not uid:
        return
    for directory in (generation.images, generation.work):
        os.chown(directory, uid, gid)
    for name in os.listdir(generation.images):
        os.chown(f"{generation.images}/{name}", uid, gid, follow_symlinks=False)


def _failed(container: Container, inputs: Inputs, error: TorporError) -> str:
    """A restore failed before the container's code could run, or nobody can tell any more."""
    current = state.read(container)
    say_fault(container.name, f"cannot restore: {error.message}", error.hint)
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
        say(f"{container.name}: generation {number} is not restored{kept}", WARNING)
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
    say(f"{container.name}: {why}: starting fresh; its images are kept aside in {place}", WARNING)
    return why


def _start_fresh(container: Container, cgroup: Cgroup, inputs: Inputs, reason: str) -> None:
    current = state.read(container)
    if current.name == state.DUMPING:
        images.remove(container.generation_dir(current.generation))  # half a dump
    running = current.become(
        state.RUNNING,
        "started fresh",
        inputs=inputs.digest,
        rootfs=rendering.rootfs_identity(inputs),
    )
    state.write(container, running)
    fault.point("running")
    config = record.read_bytes(container.rendered_path)
    if config is None:
        raise RuntimeFailedError(f"{container.rendered_path} is gone", "start again")
    payload.lay_bundle(container, config)
    try:
        pid = _create(container)
        fault.point("created")
        # Before its program runs: it may end at once, and systemd must know whose status that is.
        why = f" ({reason})" if reason else ""
        notify.main_pid(pid, "READY=1", f"STATUS=started fresh{why}").wait()
        _run(container)
        fault.point("started")
    except TorporError:
        payload.clear(container, cgroup)
        state.write(container, running.become(state.EXITED, "it could not be started"))
        raise
    images.forget_older(container, inputs.keep - 1)


def _create(container: Container) -> int:
    output = pump.start(container)
    child = runc.create(container, output)
    os.close(output)
    _await(container, child, "create")
    pid = runc.init_pid(container)
    if not pid:
        raise RuntimeFailedError("runc create left no pid")
    return pid


def _run(container: Container) -> None:
    _await(container, runc.start(container), "start")


def _await(container: Container, child: Child, verb: str) -> None:
    status = child.wait(_CREATE_TIMEOUT_S)
    if status is None:
        process.kill_tree(child.pid)
        raise RuntimeFailedError(f"runc {verb} did not end within {_CREATE_TIMEOUT_S:.0f} s")
    if status:
        raise RuntimeFailedError(f"runc {verb}: {runc.last_error(container)}")
