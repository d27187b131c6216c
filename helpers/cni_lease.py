"""A lease whose addresses CNI plugins give out; what they need to take them back is recorded."""

import os

from torpor import cni, fault, loopback, netns, record, within
from torpor import lease as leases
from torpor.container import Container
from torpor.errors import RecordError, RestoreError, TorporError
from torpor.lease import Lease, Table


def connect(container: Container, lease: Lease, *, again: bool = False) -> list[str]:
    """Have the plugins configure the container's namespace; the lease gets what they gave.

    again: a sleeper had the addresses; what plugins do not do for it is left to the caller.
    Returns warnings. Raises TorporError, and RestoreError where an address became another's.
    """
    network = cni.load(lease.network)
    wanted = [one for one in (lease.address, lease.address6) if one]
    call = cni.prepare(network, lease.interface, wanted, lease.mac, lease.publish)
    # What an earlier boot was given is still in leases that plugins keep on disk.
    warnings = remove(container)
    # Before they do anything: it can then be undone whatever happens.
    path = leases.cni_path(container)
    record.make_directory(os.path.dirname(path))
    record.write_durably(path, cni.serialize(call))
    fault.point("cni-asked")
    try:
        result = cni.add(call, netns.name(container), netns.path(container))
        record.write_durably(path, cni.serialize(call))
        fault.point("cni-added")
        _require_addresses(lease, result)
        if not again:
            _require_mac(lease, result)
    except TorporError as error:
        remove(container)
        if again and isinstance(error, cni.TakenError):  # what becomes of it the policy says
            raise RestoreError(error.message, error.hint) from error
        raise
    with within.Within(netns.path(container)):
        loopback.set_up()
    lease.address = next((one for one in result.addresses if ":" not in one), "")
    lease.address6 = next((one for one in result.addresses if ":" in one), "")
    with Table() as table:
        table.write(container, lease)
    return warnings


def _require_addresses(lease: Lease, result: cni.Result) -> None:
    """Plugins need not know the arguments by which they are asked."""
    given = [one.partition("/")[0] for one in result.addresses]
    for address in (lease.address, lease.address6):
        bare = address.partition("/")[0]
        if bare and bare not in given:
            raise TorporError(
                f"network: address: CNI network {lease.network} gave {', '.join(given) or 'none'} "
                f"instead of {bare}",
                "Do the network's plugins take a wish for an address?",
            )


def _require_mac(lease: Lease, result: cni.Result) -> None:
    """What a definition says of the MAC address plugins must be able to give."""
    if lease.mac and result.mac not in ("", lease.mac):
        raise TorporError(
            f"network: mac: CNI network {lease.network} gave {result.mac} instead of {lease.mac}",
            "Do the network's plugins take a wish for a MAC address?",
        )
    lease.mac = lease.mac or result.mac


def publish_again(container: Container) -> None:
    """Have the firewall publish the ports again where somebody emptied it. Raises TorporError."""
    call = cni.read(leases.cni_path(container))
    if call is not None:
        cni.publish_again(call, netns.name(container), netns.path(container))


def remove(container: Container) -> list[str]:
    """Have the plugins remove what they configured; repeatable. Returns warnings."""
    path = leases.cni_path(container)
    try:
        call = cni.read(path)
    except RecordError as error:
        os.unlink(path)
        return [str(error)]
    if call is None:
        return []
    place = netns.path(container) if netns.identity(container) else ""
    warnings = cni.delete(call, netns.name(container), place)
    record.remove_durably(path)
    return warnings
