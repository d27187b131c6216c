"""The network that a definition asks for: whose it is, which addresses, which published ports.

What a container is given of it is its lease. Addresses are kept as texts in their canonical form:
a definition that writes the same address in another way is the same.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from torpor import preparation, values
from torpor.container import valid_name
from torpor.lease import BRIDGE, CNI
from torpor.namespaces import Namespace
from torpor.preparation import Plan
from torpor.values import WrongError
from torpor.yaml_tree import Mapping, Node, Scalar, Sequence, shown

HOST = "host"
NONE = "none"
CONTAINER = "container"
NAMESPACE = "namespace"

_WORDS = (HOST, NONE)
_HINT = (
    "Write host, none, {bridge: NAME, subnet: CIDR}, {cni: NETWORK}, {container: NAME} or "
    "{namespace: /FILE}."
)
# The kinds that are mappings, and what else such a mapping may hold.
_KEYS = {
    BRIDGE: ("subnet", "address", "gateway", "mac", "mtu", "ipv6", "publish"),
    CNI: ("address", "mac", "publish"),
    CONTAINER: (),
    NAMESPACE: (),
}
_KNOWN = (*_KEYS, *_KEYS[BRIDGE])

AUTO = "auto"
# A name that neither ip(8), nft(8), sysctl(8) nor the kernel (dev_valid_name) would misread.
_DEVICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_DEVICE_MAX_BYTES = 15  # IFNAMSIZ - 1
_DEVICES_TAKEN = ("lo", "all", "default")  # the last two are directories of sysctl(8)
# ValidateNetworkName of libcni; it becomes the name of a directory.
_CNI_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_MAC = re.compile("[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_MTU_MIN, _MTU_MAX = 68, 65535  # RFC 791; the kernel's ETH_MAX_MTU
_MTU_MIN_IPV6 = 1280  # RFC 8200
# With two addresses beside the first and the last: the bridge's and one container's.
_LENGTH_MAX = {4: 30, 6: 126}
_ALONE = 32  # the length of an IPv4 address that is in no subnet
# Not for hosts: "this" network, loopback, multicast, reserved; of IPv6 also what is of one link.
_FORBIDDEN = {
    4: ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4"),
    6: ("::/8", "fe80::/10", "ff00::/8"),
}
_EXAMPLES = {4: "10.0.0.0/24", 6: "fd00:1::/64"}
_PROTOCOLS = ("tcp", "udp", "sctp")
_PUBLISH = re.compile(
    r"(?:(?:\[(?P<six>[^\[\]]*)\]|(?P<four>[^\[\]:]*)):)?"
    r"(?P<host>[0-9-]*):(?P<container>[0-9-]*)(?:/(?P<protocol>[a-z]*))?"
)
_PUBLISH_HINT = "Write HOST:CONTAINER, as in 8080:80, 127.0.0.1:8080:80/tcp or '[::1]:8080:80'."
_PORT_RANGE = re.compile("([0-9]{1,5})(?:-([0-9]{1,5}))?")
_PORT_MAX = 65535
_PUBLISH_MAX = 1024  # each is a line of the plan and of a firewall's rules

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network
Value = TypeVar("Value")


@dataclass(frozen=True)
class Port:
    """A port of the host whose connections go to one of the container.

    address is the host's, empty for all of its addresses; protocol is tcp, udp or sctp.
    """

    address: str
    host: int
    container: int
    protocol: str = "tcp"


@dataclass(frozen=True)
class Network:
    """Where a container's network comes from. What is empty, or 0, torpor is to choose.

    name is the bridge's, the CNI network's or the other container's, or a namespace's path.
    Addresses are "ADDRESS/LENGTH", without a length only where CNI knows it. A subnet is that of
    its address, if there is one.
    """

    kind: str
    name: str = ""
    subnet: str = ""
    address: str = ""
    gateway: str = ""
    mac: str = ""
    mtu: int = 0
    subnet6: str = ""
    address6: str = ""
    publish: tuple[Port, ...] = ()

    @property
    def is_leased(self) -> bool:
        """Whether torpor makes it, and gives it to the container with a lease."""
        return self.kind in (BRIDGE, CNI)

    @property
    def namespace(self) -> Namespace | None:
        """What namespaces.net says in the same words; None for one that is leased."""
        how = {HOST: "host", NONE: "own", CONTAINER: "container", NAMESPACE: "path"}
        return Namespace(how[self.kind], self.name) if self.kind in how else None

    def plan(self, *, is_mapped: bool) -> Plan:
        """The lines by which a lease is given; none where none is.

        is_mapped: its network namespace belongs to a user namespace that is not the host's.
        """
        if not self.is_leased:
            return []
        keys = ("kind", "name", "subnet", "address", "gateway", "mac", "mtu", "subnet6", "address6")
        said = [(key, str(getattr(self, key) or "")) for key in keys]
        lines = [preparation.value(key, word) for key, word in said if word]
        for port in self.publish:
            words = (port.address, str(port.host), str(port.container), port.protocol)
            lines.append(preparation.value("publish", *words))
        if is_mapped:
            lines.append(preparation.value("mapped", "yes"))
        return [(preparation.NETWORK, line) for line in lines]


def keep_obstacle(namespace: Namespace | None) -> str:
    """Why connections cannot be kept with this network namespace, empty when they can.

    Their addresses must be the container's when it wakes, and nobody else's meanwhile. And CRIU
    locks the network of a sleeper: whoever else lives in it would hear nothing any more, and
    nobody would unlock one that is not torpor's to remove.
    """
    if namespace is None or namespace.how == "own":
        return ""
    return f"keep needs a network of the container's own, and its is {_whose(namespace)}"


def _whose(namespace: Namespace) -> str:
    owners = {"container": f"that of container {namespace.where}", "path": namespace.where}
    return owners.get(namespace.how, "the host's")


def parse(node: Node) -> Network:
    """The value of `network:` in a definition."""
    if isinstance(node, Mapping):
        return _from_mapping(node)
    word = values.text(node)
    if word not in _WORDS:
        raise WrongError(f"'{shown(word)}' is no network", _HINT, node.line)
    return Network(word)


def _from_mapping(node: Mapping) -> Network:
    for key, (line, _) in node.entries.items():
        if key not in _KNOWN:
            hint = f"Write network: {key}" if key in _WORDS else values.nearest(key, _KNOWN)
            raise WrongError(f"'{shown(key)}' is unknown here", hint, line)
    kinds = [key for key in node.entries if key in _KEYS]
    if not kinds:
        raise WrongError("does not say which network", _HINT, node.line)
    if len(kinds) > 1:
        line = node.entries[kinds[1]][0]
        raise WrongError(f"is either {kinds[0]} or {kinds[1]}, not both", "Remove one.", line)
    kind = kinds[0]
    for key, (line, _) in node.entries.items():
        if key != kind and key not in _KEYS[kind]:
            hint = f"Beside {kind}: {', '.join(_KEYS[kind]) or 'nothing'}."
            raise WrongError(f"{key}: is not for a network of kind {kind}", hint, line)
    return _READERS[kind](_Entries(node))


class _Entries:
    """The keys of the mapping: errors name the key that is wrong, and its line."""

    def __init__(self, node: Mapping) -> None:
        self._entries = node.entries

    def read(self, key: str, parser: Callable[[Node], Value]) -> Value | None:
        """The value of key, None where it is not said."""
        if key not in self._entries:
            return None
        line, node = self._entries[key]
        try:
            return parser(node)
        except WrongError as wrong:
            raise WrongError(f"{key}: {wrong.problem}", wrong.hint, wrong.line or line) from None

    def require(self, key: str, parser: Callable[[Node], Value]) -> Value:
        found = self.read(key, parser)
        assert found is not None
        return found

    def wrong(self, key: str, problem: str, hint: str = "") -> WrongError:
        return WrongError(f"{key}: {problem}", hint, self._entries[key][0])


def _of_bridge(entries: _Entries) -> Network:
    name = entries.require(BRIDGE, _device_name)
    subnet, address = _ipv4(entries)
    subnet6, address6 = _ipv6(entries)
    gateway = _gateway(entries, subnet, address)
    if gateway is None:
        for key, one, within in (("address", address, subnet), ("ipv6", address6, subnet6)):
            if one is not None and within is not None and one == within[1]:
                hint = f"Choose another, or say what the gateway: of {within} is."
                raise entries.wrong(key, f"{one} is for the bridge: the first of {within}", hint)
    mtu = entries.read("mtu", _mtu) or 0
    if subnet6 is not None and 0 < mtu < _MTU_MIN_IPV6:
        hint = f"Write {_MTU_MIN_IPV6} or more."
        raise entries.wrong("mtu", f"{mtu} is too small for IPv6", hint)
    ports = entries.read("publish", _ports) or ()
    if subnet6 is None and (six := next((one for one in ports if ":" in one.address), None)):
        problem = f"{six.address} is an IPv6 address, but the container has none"
        raise entries.wrong("publish", problem, f"Add for example  ipv6: {_EXAMPLES[6]}")
    return Network(
        kind=BRIDGE,
        name=name,
        subnet=_written(subnet),
        address=_written(address, subnet),
        gateway=_written(gateway),
        mac=entries.read("mac", _mac) or "",
        mtu=mtu,
        subnet6=_written(subnet6),
        address6=_written(address6, subnet6),
        publish=ports,
    )


def _ipv4(entries: _Entries) -> tuple[Subnet | None, Address | None]:
    """The subnet, and the address in it: as they are said, or the one from the other."""
    subnet = entries.read("subnet", lambda node: _subnet(node, 4))
    address, length = entries.read("address", _address) or (None, None)
    if address is None:
        return subnet, None
    if subnet is None:
        if length is None:
            hint = f"Write {address}/24, for example, or add a subnet:."
            raise entries.wrong("address", f"{address} is in no subnet", hint)
        subnet = entries.require("address", lambda _: _roomy(address, length))
    elif length not in (None, subnet.prefixlen):
        problem = f"{address}/{length} has another length than the subnet {subnet}"
        raise entries.wrong("address", problem, f"Write {address}.")
    _require_host(entries, "address", address, subnet)
    return subnet, address


def _ipv6(entries: _Entries) -> tuple[Subnet | None, Address | None]:
    """The subnet, and the address in it unless it is the subnet's own."""
    address, length = entries.read("ipv6", lambda node: _prefixed(node, 6)) or (None, 0)
    if address is None:
        return None, None
    subnet = entries.require("ipv6", lambda _: _roomy(address, length))
    return subnet, None if address == subnet.network_address else address


def _gateway(entries: _Entries, subnet: Subnet | None, address: Address | None) -> Address | None:
    found = entries.read("gateway", lambda node: _parsed(values.text(node), 4))
    if found is None:
        return None
    if subnet is None:
        raise entries.wrong("gateway", f"{found} is in no subnet", "Add the subnet:.")
    _require_host(entries, "gateway", found, subnet)
    if found == address:
        raise entries.wrong("gateway", f"{found} is the container's own address")
    return found


def _require_host(entries: _Entries, key: str, address: Address, subnet: Subnet) -> None:
    """That a host of the subnet can have the address."""
    if address not in subnet:
        raise entries.wrong(key, f"{address} is outside of the subnet {subnet}")
    if address == subnet.network_address:
        raise entries.wrong(key, f"{address} is the address of the subnet {subnet} itself")
    if address == subnet.broadcast_address:
        raise entries.wrong(key, f"{address} is the broadcast address of {subnet}")


def _of_cni(entries: _Entries) -> Network:
    name = entries.require(CNI, _cni_name)
    address, length = entries.read("address", _address) or (None, None)
    if address is not None:
        subnet = entries.require("address", lambda _: _network(address, length or _ALONE))
        if subnet.prefixlen <= _LENGTH_MAX[subnet.version]:
            _require_host(entries, "address", address, subnet)
    return Network(
        kind=CNI,
        name=name,
        address="" if address is None else str(address) + (f"/{length}" if length else ""),
        mac=entries.read("mac", _mac) or "",
        publish=entries.read("publish", _ports) or (),
    )


def _of_container(entries: _Entries) -> Network:
    return Network(CONTAINER, entries.require(CONTAINER, _container_name))


def _of_namespace(entries: _Entries) -> Network:
    return Network(NAMESPACE, entries.require(NAMESPACE, values.path))


_READERS: dict[str, Callable[[_Entries], Network]] = {
    BRIDGE: _of_bridge,
    CNI: _of_cni,
    CONTAINER: _of_container,
    NAMESPACE: _of_namespace,
}


def _written(one: Address | Subnet | None, subnet: Subnet | None = None) -> str:
    if one is None:
        return ""
    return f"{one}/{subnet.prefixlen}" if subnet is not None else str(one)


def _device_name(node: Node) -> str:
    text = values.text(node)
    if not _DEVICE.fullmatch(text) or text in _DEVICES_TAKEN:
        hint = "A name is of letters, digits, '_', '.' and '-', the last two not first."
        raise WrongError(f"'{shown(text)}' cannot be the name of a bridge", hint, node.line)
    if len(text) > _DEVICE_MAX_BYTES:
        problem = f"'{shown(text)}' is {len(text)} bytes long"
        raise WrongError(problem, f"Linux allows {_DEVICE_MAX_BYTES}.", node.line)
    return text


def _cni_name(node: Node) -> str:
    text = values.text(node)
    if not _CNI_NAME.fullmatch(text):
        hint = "A name is of letters, digits, '_', '.' and '-', one of the first two first."
        raise WrongError(f"'{shown(text)}' cannot be the name of a CNI network", hint, node.line)
    return text


def _container_name(node: Node) -> str:
    text = values.text(node)
    if not valid_name(text):
        raise WrongError(f"'{shown(text)}' is no container's name", "", node.line)
    return text


def _subnet(node: Node, version: int) -> Subnet:
    address, length = _prefixed(node, version)
    subnet = _roomy(address, length)
    if subnet.network_address != address:
        problem = f"{address}/{length} is an address in a subnet, not a subnet"
        raise WrongError(problem, f"Write {subnet}.", node.line)
    return subnet


def _address(node: Node) -> tuple[Address, int | None] | None:
    """An IPv4 address with or without a length; None for one that torpor chooses."""
    text = values.text(node)
    if text == AUTO:
        return None
    if "/" in text:
        return _prefixed(node, 4)
    return _parsed(text, 4), None


def _prefixed(node: Node, version: int) -> tuple[Address, int]:
    """ADDRESS/LENGTH (RFC 4632, RFC 4291)."""
    words, slash, digits = (text := values.text(node)).partition("/")
    address = _parsed(words, version)
    if not slash:
        hint = f"Write for example {_EXAMPLES[version]}."
        raise WrongError(f"'{shown(text)}' has no length", hint, node.line)
    length = values.number(digits)
    if length is None or length > address.max_prefixlen:
        hint = f"Write a number of bits, as in {_EXAMPLES[version]}."
        raise WrongError(f"'{shown(text)}' has a wrong length", hint, node.line)
    return address, length


def _roomy(address: Address, length: int) -> Subnet:
    """The subnet of an address, which has room for a bridge and a container. Raises WrongError."""
    subnet = _network(address, length)
    if length > (most := _LENGTH_MAX[subnet.version]):
        raise WrongError(f"{subnet} is too small for a bridge and a container", f"/{most} is not.")
    return subnet


def _network(address: Address, length: int) -> Subnet:
    """The subnet of an address. Raises WrongError for one that is not for hosts."""
    subnet = ipaddress.ip_network(f"{address}/{length}", strict=False)
    for forbidden in map(ipaddress.ip_network, _FORBIDDEN[subnet.version]):
        if subnet.overlaps(forbidden):
            hint = "Choose a private one, as 10.0.0.0/24 or fd00:1::/64."
            raise WrongError(f"{subnet} holds addresses that no host can have", hint)
    return subnet


def _parsed(text: str, version: int) -> Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise WrongError(f"'{shown(text)}' is not an IPv{version} address") from None
    if address.version != version:
        hint = "IPv4 goes in subnet: and address:, IPv6 in ipv6:."
        raise WrongError(f"{shown(text)} is an IPv{address.version} address", hint)
    if getattr(address, "scope_id", None) is not None:
        raise WrongError(f"'{shown(text)}' names an interface", "Write the address alone.")
    return address


def _mac(node: Node) -> str:
    text = values.text(node)
    mac = text.lower()
    if not _MAC.fullmatch(mac):
        hint = "Write six pairs of hexadecimal digits, as in 02:00:5e:10:00:01."
        raise WrongError(f"'{shown(text)}' is not a MAC address", hint, node.line)
    if mac in ("00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"):
        raise WrongError(f"{mac} is no interface's own", "", node.line)
    if int(mac[:2], 16) & 1:  # IEEE 802, the I/G bit
        hint = "The first pair must be even."
        raise WrongError(f"{mac} is the address of a group", hint, node.line)
    return mac


def _mtu(node: Node) -> int:
    found = values.number(text := values.text(node))
    if found is None or not _MTU_MIN <= found <= _MTU_MAX:
        hint = f"Write a number of bytes from {_MTU_MIN} to {_MTU_MAX}."
        raise WrongError(f"'{shown(text)}' is not an MTU", hint, node.line)
    return found


def _ports(node: Node) -> tuple[Port, ...]:
    found: list[Port] = []
    seen: dict[tuple[int, str], list[str]] = {}
    for item in node.items if isinstance(node, Sequence) else (node,):
        for port in _published(item):
            places = seen.setdefault((port.host, port.protocol), [])
            if port.address in places or (places and "" in (port.address, *places)):
                problem = f"port {port.host}/{port.protocol} of the host is published twice"
                raise WrongError(problem, "Remove one.", item.line)
            places.append(port.address)
            found.append(port)
        if len(found) > _PUBLISH_MAX:
            raise WrongError(f"more than {_PUBLISH_MAX} ports are published", "", item.line)
    return tuple(found)


def _published(item: Node) -> Iterator[Port]:
    """The ports of one [ADDRESS:]HOST[-HOST]:CONTAINER[-CONTAINER][/PROTOCOL]."""
    if not isinstance(item, Scalar):
        hint = f"{_PUBLISH_HINT} An IPv6 address needs the quotes."
        raise WrongError("a port is one text", hint, item.line)
    text = values.text(item)
    if re.fullmatch("[0-9]+(/[a-z]+)?", text):
        port = text.partition("/")[0]
        hint = f"Write {shown(port)}:{shown(text)} for the same port of both."
        raise WrongError(f"'{shown(text)}' does not say which port of the host", hint, item.line)
    match = _PUBLISH.fullmatch(text)
    if match is None:
        raise WrongError(f"'{shown(text)}' is no port to publish", _PUBLISH_HINT, item.line)
    protocol = match["protocol"] or "tcp"
    if protocol not in _PROTOCOLS or text.endswith("/"):
        hint = values.nearest(protocol, _PROTOCOLS)
        raise WrongError(f"'{shown(text)}' has no known protocol", hint, item.line)
    address = _host_address(match, item.line)
    host, container = (_range(match[side], text, item.line) for side in ("host", "container"))
    if len(host) != len(container):
        problem = f"'{text}' has {len(host)} ports of the host for {len(container)}"
        raise WrongError(problem, "Write ranges of the same length.", item.line)
    return (Port(address, *both, protocol) for both in zip(host, container, strict=True))


def _range(words: str, text: str, line: int) -> range:
    match = _PORT_RANGE.fullmatch(words)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= _PORT_MAX:
        problem = f"'{shown(text)}': '{shown(words)}' is neither a port nor a range of ports"
        raise WrongError(problem, f"Ports go from 1 to {_PORT_MAX}.", line)
    return range(first, last + 1)


def _host_address(match: re.Match[str], line: int) -> str:
    """The address of the host on which a port is published, empty for all of them."""
    if match["six"] is None and match["four"] is None:
        return ""
    try:
        if match["six"] is not None:
            address = _parsed(match["six"], 6)
        else:
            address = _parsed(match["four"], 4)
    except WrongError as wrong:
        raise WrongError(wrong.problem, _PUBLISH_HINT, line) from None
    if address.is_unspecified:
        raise WrongError(f"{address} is no address of the host", "For all, leave it out.", line)
    if address.is_multicast or str(address) == "255.255.255.255":
        raise WrongError(f"{address} is the address of a group, not of the host", "", line)
    if getattr(address, "ipv4_mapped", None):
        hint = "Write it as one, without brackets."
        raise WrongError(f"{shown(match['six'])} is an IPv4 address", hint, line)
    return str(address)
