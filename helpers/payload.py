"""The container's processes and what they leave behind on the host."""

import os
import signal

from torpor import images, mounts, process, record, runc, state
from torpor.cgroup import Cgroup
from torpor.container import Container

KILL_TIMEOUT_S = 30.0

_BUNDLE_CONFIG = "config.json"


def lay_bundle(container: Container, config: bytes) -> None:
    """Make the bundle that runc runs; it exists only as long as the container does."""
    record.make_directory(container.bundle)
    record.replace(f"{container.bundle}/{_BUNDLE_CONFIG}", config)


def clear(container: Container, cgroup: Cgroup) -> None:
    """Remove whatever an earlier run left, in whatever state it was cut off; repeatable.

    A rootfs that a killed restore left mounted is detached first: removing runc's
    directory before would remove the rootfs's files.
    """
    runc.check_ours(container)
    runc.detach_restore_root(container)
    cgroup.kill(KILL_TIMEOUT_S)
    if os.path.exists(container.runc_dir):
        runc.delete(container)
    cgroup.remove()
    mounts.sweep_criu()
    _remove_run_dir(container)


def _remove_run_dir(container: Container) -> None:
    """Only what we made, and only files: no tree walk near mounts of a rootfs."""
    for directory in (container.bundle, container.run_dir):
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        for name in names:
            try:
                os.unlink(f"{directory}/{name}")
            except OSError:
                pass
        try:
            os.rmdir(directory)
        except OSError:
            pass


def record_end(container: Container, reason: str) -> None:
    """Record that the container's processes are dead, and remove half a dump."""
    current = state.read(container)
    ended = state.after_end(current, reason)
    if ended is None:
        return
    state.write(container, ended)
    if current.name == state.DUMPING:
        images.remove(container.generation_dir(current.generation))


def signal_and_wait(pid: int, number: int, timeout_s: float) -> bool:
    """Signal the container's init and wait for its end; False when it outlives the time."""
    fd = process.open_process(pid)
    if fd is None:
        return True
    try:
        signal.pidfd_send_signal(fd, number)
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
    fields = {}
    for line in process.read_small(f"/proc/{pid}/status").splitlines():
        key, _, value = line.partition(":")
        fields[key] = value.split()
    if len(fields.get("NSpid", [])) < 2 or fields["NSpid"][-1] != "1":
        return False
    heard = int(fields["SigCgt"][0], 16) | int(fields["SigBlk"][0], 16)
    return not heard & (1 << (number - 1))
