"""Connect a container that others run to a network, as an annotation says; and disconnect it.

createRuntime and poststop hook (config.md of the OCI runtime specification). At createRuntime the
runtime has made the network namespace, with nothing in it; a restored container has a new one, so
that it is connected again. poststop is also called after a checkpoint. Without the annotation
nothing is imported that takes long.
"""

import os

from torpor import annotations, journal, oci_state
from torpor.container import valid_name
from torpor.errors import TorporError
from torpor.oci_state import OciState


def main() -> None:
    who = "torpor"
    try:
        told = oci_state.read(0)
        who = f"torpor: {told.id}" if valid_name(told.id) else who
        if annotations.NETWORK not in told.annotations:
            pass
        elif told.pid:
            _disconnect(told)
            _connect(told)
        else:
            _tidy(told)
    except (TorporError, OSError) as error:
        journal.fail(who, error)
        os._exit(1)
    os._exit(0)


def _tidy(told: OciState) -> None:
    """At poststop. The container is gone whatever happens here: a fault is only told."""
    try:
        _disconnect(told)
    except (TorporError, OSError) as error:
        journal.warn(f"{told.id!a}: its network is not removed: {error}")


def _disconnect(told: OciState) -> None:
    """Also what an earlier container of this id left, whose end nobody told us."""
    from torpor import networking
    from torpor.lease import Foreign

    for warning in networking.leave(Foreign(told.id)):
        journal.warn(f"{told.id!a}: {warning}")


def _connect(told: OciState) -> None:
    from torpor import addressing, connecting, netns, networking
    from torpor.lease import Foreign, Table

    if _netns(told.pid) == _netns(os.getpid()):
        raise TorporError(
            "the container has the host's network namespace",
            'Give it one of its own: {"type": "network"} in linux.namespaces.',
        )
    container = Foreign(told.id)
    wish = addressing.Wish(annotations.network(told.annotations))
    with Table() as table:
        lease = addressing.give(container.name, wish, table)
        networking.require_unused(lease)
        table.write(container, lease)
    try:
        netns.attach(container, told.pid)
        for warning in connecting.connect(container, lease):
            journal.warn(f"{told.id!a}: {warning}")
        connecting.open_ports(container, lease)
        networking.note(container, lease)
    except BaseException:
        _disconnect(told)
        raise


def _netns(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")
