"""Before the program of a container runs: see that it lies in its slice, within its limits.

createRuntime hook (config.md of the OCI runtime specification) for containers that people run with
runc or podman, and that ask for it by annotations. It moves nothing: where a container lies its
runtime decides, and one that lies elsewhere is refused. A restored container has a new scope, so
that it gets its limits again.
"""

import os

from torpor import annotations, hierarchy, oci_state, scope
from torpor.container import valid_name
from torpor.errors import TorporError
from torpor.oci_state import OciState
from torpor.scope import Place


def main() -> None:
    who = "torpor"
    try:
        told = oci_state.read(0)
        who = f"torpor: {told.id}" if valid_name(told.id) else who
        _confine(told)
    except (TorporError, OSError) as error:
        from torpor.talk import report  # seldom needed

        report(who, error)
        os._exit(1)
    os._exit(0)


def _confine(told: OciState) -> None:
    request = annotations.parse(told.annotations)
    if not request.slice:
        return
    if not told.pid:
        raise TorporError(
            f"the container has no process: it is {told.status}",
            "This hook belongs to the stage createRuntime: see torpor-hooks(7).",
        )
    place = scope.of_process(told.pid)
    if not place.is_in(request.slice):
        raise _elsewhere(told, place, request.slice)
    if request.limits:
        _limit(place, request.limits)
    if owner := scope.host_root(told.pid):
        _delegate(told, place, owner)


def _limit(place: Place, limits: dict[str, str]) -> None:
    from torpor import resources  # many containers have none

    wanted = resources.bus_properties(annotations.resources(limits))
    if not place.unit:
        raise TorporError(
            f"its limits have no unit to be set on: its cgroup is {place.path}",
            "Run it in a scope: runc --systemd-cgroup, podman --cgroup-manager=systemd.",
        )
    scope.set_properties(place.unit, wanted)


def _delegate(told: OciState, place: Place, owner: tuple[int, int]) -> None:
    if scope.of_process(os.getpid()).path == place.path:
        return  # it has no cgroup of its own, but is in that of whoever ran the runtime
    if place.hand_over(*owner) and place.unit and not place.has_delegation():
        _warn(
            f"{told.id!a}: {place.unit} is without Delegate=yes: "
            "systemd may change the cgroups that the container makes"
        )


def _elsewhere(told: OciState, place: Place, slice: str) -> TorporError:
    annotations.require_good_slice(slice)
    id = told.id if valid_name(told.id) else "ID"
    return TorporError(
        f"it is not in {slice}: its cgroup is {place.path}, "
        f"but must be below {hierarchy.slice_path(slice)}",
        f'Run it with: runc --systemd-cgroup, and linux.cgroupsPath "{slice}:runc:{id}"\n'
        f"or with: podman run --cgroup-parent={slice}",
    )


def _warn(text: str) -> None:
    from torpor.journal import warn  # seldom needed, and each import costs 2 % of the whole run

    warn(text)
