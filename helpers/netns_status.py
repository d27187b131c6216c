"""What is configured in a network namespace: saved with a checkpoint, applied to one made anew.

A container may have added to what its lease gave it, and what it added is not in its memory.
It is kept as ip(8) says it in JSON: a line each of addresses, IPv4 routes and IPv6 routes.
"""

import os

from torpor import process
from torpor.errors import TorporError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

FOREVER_S = 0xFFFFFFFF  # INFINITY_LIFE_TIME of the kernel

_TIMEOUT_S = 10.0
_ENTRIES_MAX = 4096  # of each kind: a router's whole table would take minutes
_LENGTH_MAX = 64
_MTU_MAX = 0x7FFFFFFF
_ADDRESSES, _ROUTES, _ROUTES6 = "addresses", "IPv4 routes", "IPv6 routes"
# What the kernel adds by itself, or a router's advertisement does (rtnetlink(7)).
_KERNELS_ADDRESSES = ("kernel_lo", "kernel_ra", "kernel_ll")
_KERNELS_ROUTES = ("kernel", "ra", "redirect")
_PROTOCOLS = {"boot": 3, "static": 4, "dhcp": 16}
_SCOPES = {"global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
_TYPES = ("unicast", "blackhole", "unreachable", "prohibit")
_METRICS = ("mtu", "advmss", "window", "initcwnd", "initrwnd", "hoplimit")
# A route that says more than this says something that we could not make again.
_ROUTE_KEYS = frozenset(
    (
        *("type", "dst", "gateway", "dev", "protocol", "scope", "prefsrc", "metric", "metrics"),
        *("flags", "pref"),
    )
)


class Address:
    """An address of an interface, "ADDRESS/LENGTH"; what is empty it does not have."""

    __slots__ = (
        *("address", "broadcast", "interface", "is_without_route", "peer", "preferred_s", "scope"),
        "valid_s",
    )

    def __init__(self, interface: str, address: str) -> None:
        self.interface = interface
        self.address = address
        self.peer = ""
        self.broadcast = ""
        self.scope = 0
        self.is_without_route = False
        self.valid_s = self.preferred_s = FOREVER_S


class Route:
    """A route of the main table. destination is a network; gateway and source may be empty."""

    __slots__ = (
        *("destination", "gateway", "interface", "is_onlink", "kind", "metric", "metrics"),
        *("protocol", "scope", "source"),
    )

    def __init__(self, destination: str) -> None:
        self.destination = destination
        self.kind = "unicast"
        self.gateway = self.interface = self.source = ""
        self.is_onlink = False
        self.metric = 0
        self.metrics: dict[str, int] = {}
        self.protocol = _PROTOCOLS["boot"]
        self.scope = 0

    def __str__(self) -> str:
        parts = [("via", self.gateway), ("dev", self.interface)]
        words = [f"{key} {value}" for key, value in parts if value]
        return " ".join([self.destination, *words])


class Status:
    """What a namespace had. left_out says what of it is not here, and why."""

    __slots__ = ("addresses", "left_out", "mtus", "routes")

    def __init__(self) -> None:
        self.addresses: list[Address] = []
        self.routes: list[Route] = []
        self.mtus: dict[str, int] = {}
        self.left_out: list[str] = []


def save(name: str) -> bytes:
    """What parse() reads, of the namespace that ip-netns(8) calls so. Raises TorporError."""
    script = os.memfd_create("ip", os.MFD_CLOEXEC)
    try:
        os.write(script, b"addr show\nroute show table main\n")
        os.lseek(script, 0, os.SEEK_SET)
        # The family of a route's table is an option, which a line of a batch cannot have.
        first = _start(["ip", "-j", "-n", name, "-batch", "-"], script)
        second = _start(["ip", "-j", "-6", "-n", name, "route", "show", "table", "main"], None)
    finally:
        os.close(script)
    return "".join([_collect(name, *first), _collect(name, *second)]).encode()


def _start(argv: list[str], stdin: int | None) -> tuple[process.Child, int]:
    reader, writer = os.pipe()
    try:
        return process.spawn(argv, stdin=stdin, stdout=writer), reader
    except OSError as error:
        os.close(reader)
        raise TorporError(f"ip: {error.strerror}", "is the package iproute2 installed?") from error
    finally:
        os.close(writer)


def _collect(name: str, child: process.Child, reader: int) -> str:
    status, text = process.collect(child, reader, _TIMEOUT_S)
    if status:
        raise TorporError(
            f"network namespace {name}: ip ended with status {status}", f"see: ip -n {name} addr"
        )
    return text


def parse(text: bytes) -> Status:
    """What save() returned. Raises TorporError for anything else."""
    from torpor import strict_json

    lines = text.removesuffix(b"\n").split(b"\n")
    try:
        if len(lines) != 3:
            raise ValueError("it is not of three lines")
        addresses, routes, routes6 = map(strict_json.parse, lines)
        status = Status()
        _read_links(status, addresses)
        _read_routes(status, routes, 4, _ROUTES)
        _read_routes(status, routes6, 6, _ROUTES6)
    except (ValueError, KeyError) as error:
        raise TorporError(
            f"the saved status of the network namespace is damaged: {error}",
            "its addresses and routes are not known any more",
        ) from error
    return status


def _read_links(status: Status, value: object) -> None:
    count = 0
    for link in _objects(value, _ADDRESSES):
        if not link:
            continue  # ip(8) leaves an empty object for a link that a filter drops
        interface = _interface(link["ifname"])
        status.mtus[interface] = _number(link["mtu"], _MTU_MAX)
        for info in _objects(link.get("addr_info", []), _ADDRESSES):
            count += 1
            if count <= _ENTRIES_MAX and info.get("protocol") not in _KERNELS_ADDRESSES:
                status.addresses += _address(interface, info)
    _note_excess(status, count, _ADDRESSES)


def _address(interface: str, info: "dict[str, Any]") -> "Iterator[Address]":
    import ipaddress

    if info["family"] not in ("inet", "inet6"):
        return
    version = 4 if info["family"] == "inet" else 6
    length = _number(info["prefixlen"], 32 if version == 4 else 128)
    found = Address(interface, f"{_host(info['local'], version)}/{length}")
    for key, name in (("address", "peer"), ("broadcast", "broadcast")):
        if key in info:
            setattr(found, name, _host(info[key], version))
    found.scope = _named(info.get("scope", "global"), _SCOPES)
    found.is_without_route = info.get("noprefixroute") is True
    found.valid_s = _number(info.get("valid_life_time", FOREVER_S), FOREVER_S)
    preferred_s = _number(info.get("preferred_life_time", FOREVER_S), FOREVER_S)
    found.preferred_s = min(preferred_s, found.valid_s)
    is_link_local = ipaddress.ip_interface(found.address).is_link_local
    # A router's, or of a privacy extension: the kernel makes another by itself.
    is_kernels = version == 6 and (info.get("dynamic") is True or info.get("temporary") is True)
    if found.valid_s and not (is_kernels and not is_link_local):
        yield found


def _read_routes(status: Status, value: object, version: int, what: str) -> None:
    entries = _objects(value, what)
    for entry in entries[:_ENTRIES_MAX]:
        if entry.get("protocol") in _KERNELS_ROUTES:
            continue
        obstacle = _obstacle(entry)
        if obstacle:
            shown = ascii(entry.get("dst"))[:_LENGTH_MAX]
            status.left_out.append(f"a route to {shown} is not made again: {obstacle}")
        else:
            status.routes.append(_route(entry, version))
    _note_excess(status, len(entries), what)


def _obstacle(entry: "dict[str, Any]") -> str:
    """Why a route cannot be made again, empty when it can."""
    if unknown := sorted(set(entry) - _ROUTE_KEYS):
        return f"it has {ascii(unknown[0])[:_LENGTH_MAX]}"
    kind = entry.get("type", "unicast")
    return "" if kind in _TYPES else f"its type is {ascii(kind)[:_LENGTH_MAX]}"


def _route(entry: "dict[str, Any]", version: int) -> Route:
    found = Route(_network(entry["dst"], version))
    found.kind = entry.get("type", "unicast")
    if "gateway" in entry:
        found.gateway = _host(entry["gateway"], version)
    if "prefsrc" in entry:
        found.source = _host(entry["prefsrc"], version)
    if "dev" in entry:
        found.interface = _interface(entry["dev"])
    found.is_onlink = "onlink" in _list(entry.get("flags", []), "flags")
    found.metric = _number(entry.get("metric", 0), FOREVER_S)
    found.protocol = _named(entry.get("protocol", "boot"), _PROTOCOLS, unknown="boot")
    found.scope = _named(entry.get("scope", "global"), _SCOPES)
    for metrics in _objects(entry.get("metrics", []), "metrics"):
        said = [(key, metrics[key]) for key in _METRICS if key in metrics]
        found.metrics.update((key, _number(one, FOREVER_S)) for key, one in said)
    return found


def _note_excess(status: Status, count: int, what: str) -> None:
    if count > _ENTRIES_MAX:
        status.left_out.append(f"{count - _ENTRIES_MAX} of {count} {what} are not made again")


def _list(value: object, what: str) -> "list[Any]":
    if not isinstance(value, list):
        raise ValueError(f"{what}: not a list")
    return value


def _objects(value: object, what: str) -> "list[dict[str, Any]]":
    found = _list(value, what)
    if not all(isinstance(one, dict) for one in found):
        raise ValueError(f"{what}: not all are objects")
    return found


def _number(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{ascii(value)[:_LENGTH_MAX]} is not a number of 0 to {most}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _LENGTH_MAX:
        raise ValueError(f"{ascii(value)[:_LENGTH_MAX]} is not a short text")
    return value


def _interface(value: object) -> str:
    """A name as the kernel allows it (dev_valid_name), but printable."""
    name = _text(value)
    if len(name) > 15 or name in (".", "..") or not name.isprintable() or set(name) & set("/: "):
        raise ValueError(f"{name!a} is not the name of an interface")
    return name


def _host(value: object, version: int) -> str:
    import ipaddress

    address = ipaddress.ip_address(_text(value))
    if address.version != version or "%" in str(address):
        raise ValueError(f"{value!a} is not an address of IPv{version}")
    return str(address)


def _network(value: object, version: int) -> str:
    import ipaddress

    if value == "default":
        return "0.0.0.0/0" if version == 4 else "::/0"
    network = ipaddress.ip_network(_text(value))
    if network.version != version or "%" in str(network):
        raise ValueError(f"{value!a} is not a network of IPv{version}")
    return str(network)


def _named(value: object, names: dict[str, int], unknown: str = "") -> int:
    """A number of one byte that ip(8) may have a name for (its rt_scopes, rt_protos)."""
    word = _text(value)
    if word.isascii() and word.isdigit():
        return _number(int(word), 255)
    if word not in names and not unknown:
        raise ValueError(f"{word!a} is none of {', '.join(names)}")
    return names.get(word, names.get(unknown, 0))
