"""Published ports and masquerading: nftables of our own, beside whatever else the host has.

There is one table for a container and one for a bridge. Each is written in one transaction, which
holds as a whole or not at all, and can be repeated.

Where torpor gave the bridge its address, it is the container's way out: answers come back through
the host. On somebody else's bridge they would go to another gateway, or to a client on the same
bridge directly; so there the host speaks to the container in its own name.
"""

import os

from torpor import process, program, record
from torpor.container import valid_name
from torpor.errors import TorporError
from torpor.lease import Lease, Publish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_TIMEOUT_S = 20.0
_PROTOCOLS = ("tcp", "udp", "sctp")
_PORT_MAX = 65535
_DEVICE_MAX = 15  # IFNAMSIZ - 1
# Priorities by number, as nft(8) lists them: names are not known in each hook of each version.
_RAW, _DSTNAT, _SRCNAT = -300, -100, 100
_LOOPBACK = {4: "127.0.0.0/8", 6: "::1"}
_ANY = {4: "0.0.0.0", 6: "::"}
_MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
_FAMILY = {4: "ip", 6: "ip6"}
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78  # ip(7), linux/in6.h
_IPPROTO_SCTP = 132
_EADDRINUSE = 98


def publish(container_name: str, lease: Lease) -> None:
    """Lead connections to the published ports to the container. Raises TorporError.

    To be called after masquerade(), whose table guards the host's loopback.
    """
    if not lease.publish:
        return
    _apply(container_rules(container_name, lease), "network: publish")
    if lease.bridge_address and any(_is_for_loopback(port) for port in lease.publish):
        _route_loopback(lease.network)


def masquerade(lease: Lease) -> None:
    """Let containers of a bridge that has torpor's address speak in the host's name.

    Raises TorporError.
    """
    if lease.bridge_address or lease.bridge_address6:
        _apply(bridge_rules(lease), "network: bridge")


def remove(container_name: str) -> list[str]:
    """Close a container's published ports, if there are any; returns warnings."""
    return _remove(_container_table(container_name))


def remove_bridge(bridge: str) -> list[str]:
    """Stop masquerading what comes from a bridge; returns warnings."""
    return _remove(_bridge_table(bridge))


def port_in_use(port: Publish) -> bool:
    """Whether a process of the host has that port, on that address or on one of those meant."""
    return any(_is_bound(port, version) for version in _versions(port))


def container_rules(container_name: str, lease: Lease) -> str:
    """The transaction that publishes a container's ports. Raises TorporError."""
    table = _container_table(container_name)
    outside: list[str] = []
    local: list[str] = []
    for port in lease.publish:
        for version, target in _targets(port, lease):
            outside += _outside_rule(port, version, target)
            local += _local_rule(port, version, target, lease)
    chains = [
        _chain("prerouting", "nat", "prerouting", _DSTNAT, outside),
        _chain("output", "nat", "output", _DSTNAT, local),
        _chain("postrouting", "nat", "postrouting", _SRCNAT, list(_answerable(lease))),
    ]
    body = "\n".join(chains)
    return f"add table {table}\ndelete table {table}\ntable {table} {{\n{body}\n}}\n"


def bridge_rules(lease: Lease) -> str:
    """The transaction for a bridge. It adds to what other containers there have.

    Raises TorporError.
    """
    table = _bridge_table(lease.network)
    guard = f'iifname "{lease.network}" ip daddr {_LOOPBACK[4]} drop'
    lines = [
        f"add table {table}",
        *_fresh_chain(table, "prerouting", f"type filter hook prerouting priority {_RAW};"),
        *_fresh_chain(table, "postrouting", f"type nat hook postrouting priority {_SRCNAT};"),
        # The kernel routes there what comes from the bridge, once a port of it is published.
        f"add rule {table} prerouting {guard}",
    ]
    for version in (4, 6):
        family = _FAMILY[version]
        kind = "ipv4_addr" if version == 4 else "ipv6_addr"
        options = f"{{ type {kind}; flags interval; auto-merge; }}"
        lines.append(f"add set {table} subnets{version} {options}")
        if subnet := _subnet(lease, version):
            lines.append(f"add element {table} subnets{version} {{ {subnet} }}")
        lines.append(
            f"add rule {table} postrouting {family} saddr @subnets{version} "
            f"{family} daddr != @subnets{version} {family} daddr != {_MULTICAST[version]} "
            f'oifname != "{lease.network}" masquerade'
        )
    return "\n".join(lines) + "\n"


def _fresh_chain(table: str, name: str, kind: str) -> list[str]:
    return [f"add chain {table} {name} {{ {kind} }}", f"flush chain {table} {name}"]


def _chain(name: str, kind: str, hook: str, priority: int, rules: list[str]) -> str:
    lines = [f"\tchain {name} {{", f"\t\ttype {kind} hook {hook} priority {priority};"]
    return "\n".join([*lines, *(f"\t\t{rule}" for rule in rules), "\t}"])


def _outside_rule(port: Publish, version: int, target: str) -> "Iterator[str]":
    """For what comes from an interface: a loopback address there is somebody's forgery."""
    if not _is_loopback(port.address):
        yield f"{_match(port, version)} {target}"


def _local_rule(port: Publish, version: int, target: str, lease: Lease) -> "Iterator[str]":
    """For what begins on the host itself, which may speak to its loopback address."""
    if port.address and port.address not in _ANY.values():
        yield f"{_match(port, version)} {target}"
        return
    has_loopback = version == 4 and lease.bridge_address
    skip = "" if has_loopback else f"{_FAMILY[version]} daddr != {_LOOPBACK[version]} "
    yield f"{skip}{_match(port, version)} {target}"


def _match(port: Publish, version: int) -> str:
    if port.address and port.address not in _ANY.values():
        place = f"{_FAMILY[version]} daddr {port.address}"
    else:
        place = f"meta nfproto ipv{version} fib daddr type local"
    return f"{place} {port.protocol} dport {port.host_port}"


def _targets(port: Publish, lease: Lease) -> "Iterator[tuple[int, str]]":
    """For each IP version that a port is published in: where connections are to go."""
    _require_sound(port)
    versions = [version for version in _versions(port) if _address(lease, version)]
    if not versions:
        raise TorporError(
            f"network: publish: {port}: the container has no address of that kind",
            "give it one with ipv6:" if ":" in port.address else "leave the host's address out",
        )
    if _is_loopback(port.address) and (":" in port.address or not lease.bridge_address):
        raise TorporError(
            f"network: publish: {port}: connections to {port.address} cannot leave the host",
            "publish it on 127.0.0.1, and let torpor make the bridge" if not lease.bridge_address
            else "publish it on 127.0.0.1",
        )  # fmt: skip
    for version in versions:
        address = _address(lease, version)
        place = f"[{address}]" if version == 6 else address
        yield version, f"dnat {_FAMILY[version]} to {place}:{port.container_port}"


def _answerable(lease: Lease) -> "Iterator[str]":
    """Masquerade those clients whose answers would not come back through the host."""
    for version in (4, 6):
        family, address = _FAMILY[version], _address(lease, version)
        if not address:
            continue
        clients = ""
        if subnet := _subnet(lease, version):
            loopback = f", {_LOOPBACK[4]}" if version == 4 else ""
            clients = f"{family} saddr {{ {subnet}{loopback} }} "
        yield f"ct status dnat {family} daddr {address} {clients}masquerade"


def _versions(port: Publish) -> tuple[int, ...]:
    if not port.address:
        return (4, 6)
    return (6,) if ":" in port.address else (4,)


def _is_loopback(address: str) -> bool:
    return address == _LOOPBACK[6] or address.startswith("127.")


def _is_for_loopback(port: Publish) -> bool:
    return port.address in ("", _ANY[4]) or port.address.startswith("127.")


def _address(lease: Lease, version: int) -> str:
    """The container's, as nft(8) is to read it; empty where it has none."""
    said = lease.address6 if version == 6 else lease.address
    return _canonical(said.partition("/")[0], version) if said else ""


def _subnet(lease: Lease, version: int) -> str:
    """That of a bridge which has torpor's address."""
    import ipaddress

    said = lease.bridge_address6 if version == 6 else lease.bridge_address
    if not said:
        return ""
    _canonical(said.partition("/")[0], version)
    try:
        return str(ipaddress.ip_interface(said).network)
    except ValueError as error:
        raise TorporError(f"network: subnet: {said!a} is not an address with a length") from error


def _canonical(address: str, version: int) -> str:
    import ipaddress

    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        found = None
    if found is None or found.version != version or str(found) != address or "%" in address:
        raise TorporError(f"network: {address!a} is not an address of IPv{version}")
    return address


def _require_sound(port: Publish) -> None:
    if port.address:
        _canonical(port.address, 6 if ":" in port.address else 4)
    ports = (port.host_port, port.container_port)
    if port.protocol not in _PROTOCOLS or not all(0 < one <= _PORT_MAX for one in ports):
        raise TorporError(f"network: publish: {str(port)!a} is not what can be published")


def _container_table(name: str) -> str:
    if not valid_name(name):
        raise TorporError(f"{name!a} is no container name")
    return f"inet torpor-container-{name}"


def _bridge_table(bridge: str) -> str:
    is_short = 0 < len(bridge) <= _DEVICE_MAX and bridge.isascii()
    if not is_short or not all(char.isalnum() or char in "_.-" for char in bridge):
        raise TorporError(f"network: bridge: {bridge!a} is not a name for one")
    return f"inet torpor-bridge-{bridge}"


def _apply(rules: str, key: str) -> None:
    if reason := _nft(rules):
        if not process.find("nft"):
            raise TorporError(f"{key}: this needs nftables, which is not here", "install nftables")
        raise TorporError(f"{key}: nft: {reason}", "see: nft list ruleset")


def _remove(table: str) -> list[str]:
    if not process.find("nft"):
        return []  # then there was nothing to be made with
    # One that is not there cannot be deleted, and nothing tells in advance.
    reason = _nft(f"add table {table}\ndelete table {table}\n")
    return [f"nft: table {table} cannot be removed: {reason}"] if reason else []


def _nft(rules: str) -> str:
    """Run a transaction: empty when it holds, else the reason why it does not."""
    script = os.memfd_create("nft", os.MFD_CLOEXEC)
    try:
        record.write_all(script, rules.encode())
        os.lseek(script, 0, os.SEEK_SET)
        return program.run(["nft", "-f", "-"], timeout_s=_TIMEOUT_S, stdin=script)
    finally:
        os.close(script)


def _route_loopback(bridge: str) -> None:
    """Let the host's own connections to 127.0.0.1 go out to a bridge (ip-sysctl of the kernel)."""
    path = f"/proc/sys/net/ipv4/conf/{bridge}/route_localnet"
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write("1")
    except OSError as error:
        raise TorporError(f"network: publish: {path}: {error.strerror}") from error


def _is_bound(port: Publish, version: int) -> bool:
    import _socket

    if port.protocol == "sctp" and not os.path.exists("/proc/net/sctp"):
        return False  # to ask would load the kernel's module
    is_stream = port.protocol != "udp"
    number = _IPPROTO_SCTP if port.protocol == "sctp" else 0
    family = _socket.AF_INET6 if version == 6 else _socket.AF_INET
    kind = _socket.SOCK_STREAM if is_stream else _socket.SOCK_DGRAM
    try:
        probe = _socket.socket(family, kind | _socket.SOCK_CLOEXEC, number)
    except OSError:
        return False  # nobody can listen in a family that the kernel does not have
    try:
        if is_stream:  # connections that ended lately count no more, those who listen do
            probe.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        if version == 6:
            probe.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
            probe.setsockopt(_socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            probe.setsockopt(_socket.IPPROTO_IP, _IP_FREEBIND, 1)
        probe.bind((port.address or _ANY[version], port.host_port))
    except OSError as error:
        return error.errno == _EADDRINUSE
    finally:
        probe.close()
    return False
