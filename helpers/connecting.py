"""Configuring a network namespace as a lease says.

What speaks netlink is imported here first, before anything is waited for: it takes longest.
"""

import os

from torpor import fault, firewall, netns, networking, record
from torpor import lease as leases
from torpor.container import Container
from torpor.lease import Lease, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def connect(
    container: Container,
    lease: Lease,
    *,
    saved: str = "",
    hold: bool = False,
    until_there: "Callable[[], None]" = lambda: None,
) -> list[str]:
    """Configure the namespace that has the container's name; returns warnings.

    saved is the path of what was configured in it before, see netns_status; with hold the link to
    the host stays down. until_there waits for the namespace. Raises TorporError.
    """
    if lease.kind == leases.CNI:
        from torpor import cni_lease

        until_there()
        warnings = cni_lease.connect(container, lease, again=bool(saved))
    else:
        warnings = _connect_to_bridge(container, lease, saved, hold, until_there)
    fault.point("wired")
    return warnings


def _connect_to_bridge(
    container: Container,
    lease: Lease,
    saved: str,
    hold: bool,
    until_there: "Callable[[], None]",
) -> list[str]:
    from torpor import bridge, netns_status

    text = record.read_bytes(saved) if saved else None
    extra = netns_status.parse(text) if text is not None else None
    bridge.load()
    until_there()
    with Table():
        warnings = bridge.build(lease, netns.name(container), hold=hold, extra=extra)
        firewall.masquerade(lease)
    return warnings


def open_ports(container: Container, lease: Lease) -> None:
    """Have the firewall do what the lease says, also where somebody emptied it meanwhile."""
    if lease.kind == leases.BRIDGE:
        firewall.masquerade(lease)
        firewall.publish(container.name, lease)
    fault.point("published")


def note(container: Container, lease: Lease) -> None:
    """Record that all of it was configured, for who wants to know whether it still stands."""
    path = networking.standing_path(container)
    record.make_directory(os.path.dirname(path))
    record.replace(path, networking.standing(container, lease).encode())
