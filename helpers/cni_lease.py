"""A lease whose addresses CNI plugins give out; what they need to take them back is recorded."""

import os

from torpor import cni, fault, loopback, netns, record
from torpor.container import Container
from torpor.errors import RecordError, RestoreError
from torpor.lease import Lease, Table


def record_path(container: Container) -> str:
    return f"{container.state_dir}/cni"


def connect(container: Container, lease: Lease, *, again: bool = False) -> list[str]:
    """Have the plugins configure the container's namespace; the lease gets what they gave.

    again: addresses and MAC are those that a sleeper had. Raises TorporError, RestoreError.
    """
    network = cni.load(lease.network)
    wanted = [one for one in (lease.address, lease.address6) if one]
    call = cni.prepare(network, wanted, lease.mac, lease.publish)
    # What an earlier boot was given is still in leases that plugins keep on disk.
    warnings = remove(container, lease)
    # Before they do anything: it can then be undone whatever happens.
    record.write_durably(record_path(container), cni.serialize(call))
    fault.point("cni-asked")
    try:
        result = cni.add(call, netns.name(container), netns.path(container), lease.interface)
        record.write_durably(record_path(container), cni.serialize(call))
        fault.point("cni-added")
        _require_what_was_asked(lease, result)
    except cni.RefusedError as error:
        remove(container, lease)
        if again:  # its address is another's now: what becomes of it is the policy's to say
            raise RestoreError(error.message, error.hint) from error
        raise
    loopback.set_up_at(netns.path(container))
    lease.address = next((one for one in result.addresses if ":" not in one), "")
    lease.address6 = next((one for one in result.addresses if ":" in one), "")
    lease.mac = result.mac or lease.mac
    with Table() as table:
        table.write(container, lease)
    return warnings


def _require_what_was_asked(lease: Lease, result: cni.Result) -> None:
    """Plugins need not know the arguments by which they are asked."""
    given = [one.partition("/")[0] for one in result.addresses]
    for key, address in (("address", lease.address), ("address", lease.address6)):
        bare = address.partition("/")[0]
        if bare and bare not in given:
            raise cni.RefusedError(
                f"network: {key}: CNI network {lease.network} gave {', '.join(given) or 'none'} "
                f"instead of {bare}",
                "Is it taken, or do the network's plugins not take a wish for an address?",
            )
    if lease.mac and result.mac not in ("", lease.mac):
        raise cni.RefusedError(
            f"network: mac: CNI network {lease.network} gave {result.mac} instead of {lease.mac}",
            "Do the network's plugins take a wish for a MAC address?",
        )


def remove(container: Container, lease: Lease) -> list[str]:
    """Have the plugins remove what they configured; repeatable. Returns warnings."""
    path = record_path(container)
    try:
        call = cni.read(path)
    except RecordError as error:
        os.unlink(path)
        return [str(error)]
    if call is None:
        return []
    place = netns.path(container) if netns.identity(container) else ""
    warnings = cni.delete(call, netns.name(container), place, lease.interface)
    record.remove_durably(path)
    return warnings
