"""Giving out addresses and ports: the lease of a container that begins.

What a definition leaves open is chosen so that a container gets the same each time, as long as it
is free: who starts the search for a free address where its name hashes to rarely meets another.
"""

import ipaddress
import json
import os
import zlib

from torpor import process, state
from torpor.bridge import is_ours
from torpor.errors import HostFaultError, TorporError
from torpor.lease import BRIDGE, Lease, Table, read_publish
from torpor.preparation import NETWORK, Plan

# Subnets of bridges that nobody gave one: 10.83.0.0/24 and on.
_POOL = ipaddress.ip_network("10.83.0.0/16")
_POOL_PREFIX = 24
_ROUTES = "/proc/net/route"  # netlink's answer takes longer to ask for
_MAC_ATTEMPTS = 16

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network
Others = list[tuple[str, Lease]]


class Wish:
    """What a plan says of the network; what is empty is left to torpor."""

    def __init__(self, plan: Plan) -> None:
        said = [value.split("\t") for key, value in plan if key == NETWORK]
        words = {key: rest[0] for key, *rest in said if key != "publish"}
        self.kind = words.get("kind", "")
        self.name = words.get("name", "")
        self.subnet = words.get("subnet", "")
        self.address = words.get("address", "")
        self.gateway = words.get("gateway", "")
        self.subnet6 = words.get("subnet6", "")
        self.address6 = words.get("address6", "")
        self.mac = words.get("mac", "")
        self.is_mapped = bool(words.get("mapped"))
        self.mtu = int(words.get("mtu") or 0)
        self.publish = [read_publish(rest) for key, *rest in said if key == "publish"]


def give(name: str, wish: Wish, table: Table) -> Lease:
    """A lease for container name that collides with no other. Raises TorporError."""
    others = table.others(name)
    lease = Lease(wish.kind, wish.name)
    lease.boot = state.boot_id()
    lease.mapped = wish.is_mapped
    lease.publish = wish.publish
    _require_free_ports(lease, others)
    if wish.kind == BRIDGE:
        lease.device = new_device()
        lease.mtu = wish.mtu
        neighbours = [(owner, one) for owner, one in others if _shares(one, lease)]
        _give_ipv4(name, lease, wish, neighbours, others)
        _give_ipv6(name, lease, wish, neighbours)
        lease.mac = wish.mac or _mac(name, lease, neighbours)
        _require_own_mac(lease, neighbours)
    else:
        lease.address, lease.mac = wish.address, wish.mac
    return lease


def new_device() -> str:
    """A name for the host's end of a veth pair."""
    return f"tor{os.urandom(4).hex()}"


def require_sound(lease: Lease, where: str) -> None:
    """That a lease of another host holds addresses and names, whatever else. Raises TorporError."""
    try:
        for text in filter(None, (lease.address, lease.address6)):
            ipaddress.ip_interface(text)
        for text in (lease.bridge_address, lease.bridge_address6):
            ipaddress.ip_interface(text or "::")
        for text in filter(None, (lease.gateway, lease.gateway6)):
            ipaddress.ip_address(text)
        for port in lease.publish:
            ipaddress.ip_address(port.address or "::")
    except ValueError as error:
        raise TorporError(f"{where}: {error}") from error
    names = (lease.interface, lease.network, lease.mac.replace(":", ""))
    if not all(
        one.replace("-", "").replace("_", "").replace(".", "").isalnum() or not one for one in names
    ):
        raise TorporError(f"{where}: it names what is no network, interface or address")


def give_again(name: str, lease: Lease, table: Table) -> None:
    """Take a saved lease again as it is, for this boot.

    Raises TorporError where that is taken: HostFaultError for a port.
    """
    others = table.others(name)
    _require_free_ports(lease, others)
    if lease.kind == BRIDGE:
        neighbours = [(owner, one) for owner, one in others if _shares(one, lease)]
        for address in filter(None, (lease.address, lease.address6)):
            _require_free(address.partition("/")[0], neighbours)
        _require_own_mac(lease, neighbours)
    lease.boot = state.boot_id()


def _shares(one: Lease, other: Lease) -> bool:
    return (one.kind, one.network) == (other.kind, other.network)


def _require_free_ports(lease: Lease, others: Others) -> None:
    for port in lease.publish:
        for owner, one in others:
            if any(port.collides(theirs) for theirs in one.publish):
                raise HostFaultError(
                    f"network: publish: {port}: {owner} has published that port of the host",
                    f"publish another one, or end {owner}",
                )


def _require_free(address: str, neighbours: Others) -> None:
    for owner, one in neighbours:
        if address in (_bare(one.address), _bare(one.address6)):
            raise TorporError(
                f"network: address: {address} on bridge {one.network} is taken by {owner}",
                f"choose another address, or end {owner}",
            )


def _require_own_mac(lease: Lease, neighbours: Others) -> None:
    for owner, one in neighbours:
        if one.mac == lease.mac:
            raise TorporError(
                f"network: mac: {lease.mac} on bridge {one.network} is taken by {owner}",
                "choose another, or leave it out",
            )


def _give_ipv4(name: str, lease: Lease, wish: Wish, neighbours: Others, others: Others) -> None:
    own = _own_addresses(lease.network)
    subnet = _subnet(wish, neighbours, own, others)
    is_foreign = _is_foreign(lease.network)
    if not (wish.gateway or is_foreign):
        lease.bridge_address = f"{subnet[1]}/{subnet.prefixlen}"
    bridges = [_bare(lease.bridge_address), *(_bare(one) for one in own)]
    gateway = wish.gateway or next((one for one in bridges if one and _within(one, subnet)), "")
    lease.gateway = gateway
    lease.address = _pick(name, subnet, _bare(wish.address), {gateway, *bridges}, neighbours)


def _give_ipv6(name: str, lease: Lease, wish: Wish, neighbours: Others) -> None:
    if not wish.subnet6:
        return
    subnet = ipaddress.ip_network(wish.subnet6)
    if not (wish.gateway or _is_foreign(lease.network)):
        lease.bridge_address6 = f"{subnet[1]}/{subnet.prefixlen}"
        lease.gateway6 = str(subnet[1])
    taken = {str(subnet[1])}
    lease.address6 = _pick(name, subnet, _bare(wish.address6), taken, neighbours)


def _pick(name: str, subnet: Subnet, wanted: str, taken: set[str], neighbours: Others) -> str:
    """The wanted address, or one that nobody has, with the subnet's length."""
    if wanted:
        if wanted in taken:
            raise TorporError(
                f"network: address: {wanted} is the bridge's or the gateway's", "choose another"
            )
        _require_free(wanted, neighbours)
        return f"{wanted}/{subnet.prefixlen}"
    taken |= {_bare(one.address) for _, one in neighbours}
    taken |= {_bare(one.address6) for _, one in neighbours}
    # Neither the network's own address nor, in IPv4, the broadcast one.
    count = min(subnet.num_addresses - 2, 1 << 32)
    first = zlib.crc32(name.encode()) % count
    for step in range(min(count, len(taken) + 1)):
        candidate = str(subnet[1 + (first + step) % count])
        if candidate not in taken:
            return f"{candidate}/{subnet.prefixlen}"
    raise TorporError(f"network: subnet: no address of {subnet} is free", "choose a larger subnet")


def _subnet(wish: Wish, neighbours: Others, own: list[str], others: Others) -> Subnet:
    """Where nobody says one: the bridge's, else one that this host has no route into."""
    if wish.subnet:
        return ipaddress.ip_network(wish.subnet)
    for said in (*(one.address for _, one in neighbours), *own):
        if said and ":" not in said:
            return ipaddress.ip_network(said, strict=False)
    known = [*_routes(), *(_network(one.address) for _, one in others if one.address)]
    for candidate in _POOL.subnets(new_prefix=_POOL_PREFIX):
        if not any(candidate.overlaps(one) for one in known if one.version == 4):
            return candidate
    raise TorporError(f"network: no subnet of {_POOL} is free", "choose one with subnet:")


def _mac(name: str, lease: Lease, neighbours: Others) -> str:
    """Locally administered, and always the same for a container on a bridge."""
    taken = {one.mac for _, one in neighbours}
    for attempt in range(_MAC_ATTEMPTS):
        seed = zlib.crc32(f"{lease.network}/{name}/{attempt}".encode())
        mac = "0a:83:" + ":".join(f"{byte:02x}" for byte in seed.to_bytes(4, "big"))
        if mac not in taken:
            return mac
    raise TorporError("network: no MAC address was found", "set mac:")


def _is_foreign(bridge: str) -> bool:
    """Whether somebody else made the bridge: it stays as it is."""
    return os.path.exists(f"/sys/class/net/{bridge}") and not is_ours(bridge)


def _own_addresses(bridge: str) -> list[str]:
    """The IPv4 addresses of an interface of the host, with their lengths."""
    if not os.path.exists(f"/sys/class/net/{bridge}"):
        return []
    status, text = process.output(["ip", "-j", "-4", "addr", "show", "dev", bridge])
    if status:
        return []
    entries = [info for link in json.loads(text) for info in link.get("addr_info", ())]
    return [f"{info['local']}/{info['prefixlen']}" for info in entries]


def _routes() -> list[Subnet]:
    """Where IPv4 packets go from here, but for the default route (proc_pid_net(5))."""
    found: list[Subnet] = []
    for line in process.read_small(_ROUTES).splitlines()[1:]:
        fields = line.split()
        place, mask = (int(fields[index], 16).to_bytes(4, "little") for index in (1, 7))
        if any(mask):
            length = ipaddress.ip_address(mask)
            found.append(ipaddress.ip_network(f"{ipaddress.ip_address(place)}/{length}"))
    return found


def _network(address: str) -> Subnet:
    return ipaddress.ip_network(address, strict=False)


def _within(address: str, subnet: Subnet) -> bool:
    return ipaddress.ip_address(address) in subnet


def _bare(address: str) -> str:
    return address.partition("/")[0]
