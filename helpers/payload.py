"""The container's processes and what they leave behind on the host."""

import os

from torpor import images, mounts, networking, preparation, process, record, runc, signals, state
from torpor.cgroup import Cgroup, payload_of
from torpor.container import Container
from torpor.errors import CheckpointError, RecordError
from torpor.last_rendering import Inputs
from torpor.preparation import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

KILL_TIMEOUT_S = 30.0
_LEFT_OVER_TIMEOUT_S = 10.0

_BUNDLE_CONFIG = "config.json"
_MACHINES = "/run/systemd/machines"  # where machined keeps its records


def lay_bundle(container: Container, config: bytes, plan: Plan) -> None:
    """Make the bundle that runc runs; it exists only as long as the container does."""
    record.make_directory(container.bundle)
    record.replace(container.plan_path, preparation.serialize(plan))
    record.replace(f"{container.bundle}/{_BUNDLE_CONFIG}", config)


def save_bundle(container: Container, generation: images.Generation) -> None:
    """Keep what the container runs with beside its images. Raises CheckpointError, OSError."""
    config = record.read_bytes(f"{container.bundle}/{_BUNDLE_CONFIG}")
    if config is None:
        raise CheckpointError(f"{container.bundle}/{_BUNDLE_CONFIG} is gone")
    record.write_durably(generation.config, config)
    plan = preparation.read(container.plan_path)
    record.write_durably(generation.plan, preparation.serialize(plan))


def planned_cgroup(plan: Plan, unit_cgroup: str) -> Cgroup:
    """Where plan puts the payload of a unit that has this cgroup."""
    if elsewhere := preparation.first(plan, preparation.CGROUP):
        return Cgroup(elsewhere)
    if name := preparation.first(plan, preparation.CGROUP_IN_UNIT):
        return Cgroup(f"{unit_cgroup}/{name}")
    return payload_of(unit_cgroup)


def cgroup_of(container: Container, unit_cgroup: str) -> Cgroup:
    """Where the payload is that runs now, or that ran last and was not cleared.

    With a plan that cannot be read it is where most are; clear() goes by runc's word, too.
    """
    try:
        plan = preparation.read(container.plan_path)
    except RecordError:
        plan = []
    return planned_cgroup(plan, unit_cgroup)


def clear(container: Container, cgroup: Cgroup) -> list[str]:
    """Remove whatever an earlier run left, in whatever state it was cut off; repeatable.

    A rootfs that a killed restore left mounted is detached first: removing runc's
    directory before would remove the rootfs's files. Returns warnings: what could not be undone
    costs nothing but its place.
    """
    runc.check_ours(container)
    if os.path.exists(f"{_MACHINES}/{container.name}"):
        from torpor import machined  # few are registered

        machined.unregister(container)
    runc.detach_restore_root(container)
    cgroup.kill(KILL_TIMEOUT_S)
    if os.path.exists(container.runc_dir):
        runc.delete(container)
    cgroup.remove()
    record.sweep(container.state_dir)
    mounts.sweep_criu()
    for place in (container.generations_dir, container.snapshots_dir):
        mounts.detach_below(place)  # CRIU mounts cgroups where it works
    warnings = preparation.undo(container) if os.path.exists(container.run_dir) else []
    _remove_run_dir(container)
    return warnings + images.shut_all(container) + networking.leave(container)


def end_left_over(unit_cgroup: str) -> bool:
    """Kill each runc and CRIU that a killed helper has left in a unit that starts; was there one?

    A ``runc delete`` of before waits for the end of its container, and then removes the state of
    whoever has that name. Not before clear(): of what a CRIU holds nothing must run on.
    """
    left = [pid for pid in Cgroup(unit_cgroup).pids() if process.name(pid) in ("runc", "criu")]
    for pid in left:
        process.kill_tree(pid, _LEFT_OVER_TIMEOUT_S)
    return bool(left)


# What we made in the run directory, and whether we made the files in it too.
_DIRECTORIES = (
    ("bundle", True),
    ("files", True),
    ("notify", True),
    ("ns", True),
    ("sources", True),
    ("shm", False),
    ("rootfs", False),
    ("image", False),
    ("", True),
)


def _remove_run_dir(container: Container) -> None:
    """Only what we made, and only files: no tree walk near mounts of a rootfs."""
    if os.path.islink(container.run_dir):
        os.unlink(container.run_dir)
        return
    for name, has_files in _DIRECTORIES:
        directory = f"{container.run_dir}/{name}".rstrip("/")
        _remove_directory(directory, has_files)


def _remove_directory(directory: str, has_files: bool) -> None:
    if os.path.islink(directory):  # nothing of ours is: what it leads to stays as it is
        os.unlink(directory)
        return
    try:
        names = os.listdir(directory) if has_files else []
    except OSError:
        return
    for name in names:
        _try(os.unlink, f"{directory}/{name}")
        _try(os.rmdir, f"{directory}/{name}")  # of a bind source; the kernel refuses a mounted one
    _try(os.rmdir, directory)


def _try(remove: "Callable[[str], None]", path: str) -> None:
    try:
        remove(path)
    except OSError:
        pass


def make_known(container: Container, pid: int, inputs: Inputs) -> list[str]:
    """Have systemd-machined know the container, where its definition wants that; warnings.

    Before its unit is active: then people go on with machinectl.
    """
    if not inputs.is_machine:
        return []
    from torpor import machined

    problem = machined.register(container, pid, inputs.machine_id).finish()
    return [problem] if problem else []


def record_end(container: Container, reason: str, *, failed: bool = False) -> list[str]:
    """Record that the container's processes are dead, and remove half a dump; warnings.

    failed: systemd calls that a failure.

    A record that cannot be written costs nothing: by the one that stays, as by the one that
    would replace it, the next start is fresh.
    """
    current = state.read(container)
    ended = state.after_end(current, reason, failed=failed)
    if ended is None:
        return []
    if current.name == state.DUMPING:
        images.remove(container.generation_dir(current.generation))
    try:
        state.write(container, ended)
    except OSError as error:
        return [f"that it ended is not recorded: {error}"]
    return []


def end(cgroup: Cgroup, pid: int, number: int, timeout_s: float) -> None:
    """Ask the container's init to end, and kill all when the time is over."""
    if ignores(pid, number) or not signal_and_wait(pid, number, timeout_s):
        cgroup.kill(KILL_TIMEOUT_S)


def signal_and_wait(pid: int, number: int, timeout_s: float) -> bool:
    """Signal the container's init and wait for its end; False when it outlives the time."""
    fd = process.open_process(pid)
    if fd is None:
        return True
    try:
        signals.send(fd, number)
        return process.readable(fd, timeout_s)
    except ProcessLookupError:
        return True
    finally:
        os.close(fd)


def ignores(pid: int, number: int) -> bool:
    """Whether a signal would be lost on the container's init.

    The kernel drops a signal to PID 1 of a pid namespace that neither handles nor blocks it
    (pid_namespaces(7)); waiting for it to act would be in vain.
    """
    ids = process.status(pid).get("NSpid", [])
    return len(ids) > 1 and ids[-1] == "1" and not process.hears(pid, number)
