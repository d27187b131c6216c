"""Configuring a network namespace as a lease says.

What speaks netlink is imported here first, before anything is waited for: it takes longest.
"""

from torpor import fault, firewall, netns, record
from torpor import lease as leases
from torpor.container import Container
from torpor.lease import Lease, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from torpor.netns_status import Status


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
        warnings = _connect_by_plugins(container, lease, saved, until_there)
    else:
        warnings = _connect_to_bridge(container, lease, saved, hold, until_there)
    fault.point("wired")
    return warnings


def _connect_by_plugins(
    container: Container, lease: Lease, saved: str, until_there: "Callable[[], None]"
) -> list[str]:
    from torpor import cni_lease

    extra = _read_saved(saved)
    if extra is None:
        until_there()
        return cni_lease.connect(container, lease, again=bool(saved))
    from torpor import bridge

    bridge.load()
    until_there()
    warnings = cni_lease.connect(container, lease, again=True)
    return warnings + bridge.add_extra(lease, netns.name(container), extra)


def _read_saved(path: str) -> "Status | None":
    """What was in a sleeper's namespace beyond its lease; None where nobody saved that."""
    text = record.read_bytes(path) if path else None
    if text is None:
        return None
    from torpor import netns_status

    return netns_status.parse(text)


def _connect_to_bridge(
    container: Container,
    lease: Lease,
    saved: str,
    hold: bool,
    until_there: "Callable[[], None]",
) -> list[str]:
    from torpor import bridge

    extra = _read_saved(saved)
    bridge.load()
    until_there()
    with Table():
        warnings = bridge.build(lease, netns.name(container), hold=hold, extra=extra)
        firewall.masquerade(lease)
    return warnings


def open_ports(container: Container, lease: Lease, *, again: bool = False) -> None:
    """Have the firewall do what the lease says, also where somebody emptied it meanwhile.

    again: the rest was connected before this.
    """
    if lease.kind == leases.BRIDGE:
        firewall.masquerade(lease)
        firewall.publish(container.name, lease)
    elif again:
        from torpor import cni_lease

        cni_lease.publish_again(container)
    fault.point("published")
