"""Before the program of a container runs: give a systemd what it must find where it is PID 1.

createRuntime hook (config.md of the OCI runtime specification) for containers that people run with
runc, crun, podman or CRI-O, and that ask for it by an annotation, or by their command where a file
of hooks.d calls for that. What is mounted already stays. All that it mounts is in the container's
own mount namespace, and goes with it, however this ends.

At the stage createContainer it would be root of the container's user namespace, which may not be
able to read the bundle, and neither runc nor crun says there which process the container is.
"""

import os

# All that a fault needs, before the container's files are what surrounds this process.
from torpor import annotations, journal, oci_state, systemd_mode
from torpor.container import valid_name
from torpor.errors import TorporError
from torpor.oci_state import OciState

TYPE_CHECKING = False  # typing is not imported
if TYPE_CHECKING:
    from torpor.oci_config import Config


def main() -> None:
    who = "torpor"
    try:
        told = oci_state.read(0)
        who = f"torpor: {told.id}" if valid_name(told.id) else who
        mode = annotations.systemd(told.annotations)
        # A restored container has its mounts from its image.
        if mode != systemd_mode.NEVER and told.status != oci_state.STOPPED:
            _furnish(told, mode)
    except (TorporError, OSError) as error:
        journal.fail(who, error)
        os._exit(1)
    os._exit(0)


def _furnish(told: OciState, mode: str) -> None:
    from torpor import bundle  # most containers get no further than this

    if not told.pid:
        raise TorporError(
            f"the container has no process: it is {told.status}",
            "This hook belongs to the stage createRuntime: see torpor-hooks(7).",
        )
    config = bundle.load(told.bundle)
    if systemd_mode.applies(mode, config["process"]["args"]):
        _mount(told, config)


def _mount(told: OciState, config: "Config") -> None:
    from torpor import bundle, scope
    from torpor.systemd_cgroup import SystemdCgroup
    from torpor.systemd_mounts import SystemdMounts
    from torpor.unstarted import Unstarted

    root = bundle.resolve_root(told.bundle, config)
    container = Unstarted(told.pid, root)
    cgroup = SystemdCgroup(container)
    if owner := scope.host_root(told.pid):
        cgroup.hand_over(owner)
    mounts = SystemdMounts(container, config, root)
    machine_id = _machine_id(told.id, config) if mounts.may_need_machine_id() else ""
    container.enter()
    mounts.mount_tmpfs()
    mounts.mount_cgroup(cgroup)
    mounts.give_machine_id(machine_id)


def _machine_id(id: str, config: "Config") -> str:
    """What systemd would take itself, else one that is always the same for the container."""
    if told := systemd_mode.told_id(config["process"].get("env") or []):
        return told
    from torpor import systemd_root  # takes longer than all else, and is seldom needed

    return systemd_root.derived_id(id)
