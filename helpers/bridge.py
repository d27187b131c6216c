"""A container's link to a bridge: a veth pair, one end in its network namespace, and addresses.

netlink is spoken with pyroute2, which takes longer to import than all of this takes to run; whoever
only removes does without it.
"""

import os

from torpor import fault, process, program, state
from torpor.errors import TorporError
from torpor.lease import Lease
from torpor.netns import PREFIX, ROOT
from torpor.netns_status import FOREVER_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torpor.netns_status import Address, Route, Status

ALIAS = "torpor"  # of a bridge that torpor made (IFLA_IFALIAS), and removes

_DEVICES = "/sys/class/net"
_SYSCTLS = "/proc/sys/net"
_LOOPBACK = "lo"
_TIMEOUT_S = 10.0

_AF = {4: 2, 6: 10}  # AF_INET, AF_INET6
_EEXIST = 17
_UP = 1  # IFF_UP
_NODAD, _NOPREFIXROUTE = 0x02, 0x200  # IFA_F_* in linux/if_addr.h
_ONLINK = 4  # RTNH_F_ONLINK in linux/rtnetlink.h
_TYPES = {"unicast": 1, "blackhole": 6, "unreachable": 7, "prohibit": 8}  # RTN_*
_SUBNET_KEY = {4: "subnet", 6: "ipv6"}
_ADDRESS_KEY = {4: "address", 6: "ipv6"}
_ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}


class _Netlink:
    """What pyroute2 has for us."""

    __slots__ = ("Error", "Route")

    def __init__(self) -> None:
        from pyroute2.iproute.linux import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError

        self.Route = IPRoute
        self.Error = NetlinkError


_loaded: list[_Netlink] = []


def load() -> _Netlink:
    """Import pyroute2, once. Raises TorporError.

    Its package imports all of its parts, a server and a data base among them, and we need one: so
    we put an empty package in its place. Where that does not do, all of it is imported.
    """
    if not _loaded:
        try:
            _stand_in_for("pyroute2")
            _loaded.append(_Netlink())
        except (ImportError, AttributeError):
            _forget("pyroute2")
            _loaded.append(_load_whole())
    return _loaded[0]


def _load_whole() -> _Netlink:
    try:
        return _Netlink()
    except ImportError as error:
        raise TorporError(
            f"network: bridge: pyroute2 cannot be imported: {error}", "install python3-pyroute2"
        ) from error


def _stand_in_for(package: str) -> None:
    """Have the modules of a package be found without its own code."""
    import sys
    from importlib.machinery import PathFinder
    from types import ModuleType

    spec = PathFinder.find_spec(package)
    if package in sys.modules or spec is None or spec.submodule_search_locations is None:
        return
    empty = ModuleType(package)
    empty.__path__ = list(spec.submodule_search_locations)
    empty.__spec__ = spec
    sys.modules[package] = empty


def _forget(package: str) -> None:
    import sys

    for name in [*sys.modules]:
        if name == package or name.startswith(f"{package}."):
            del sys.modules[name]


def build(
    lease: Lease, netns_name: str, *, hold: bool = False, extra: "Status | None" = None
) -> list[str]:
    """Connect a network namespace as a lease says; returns warnings.

    The caller holds the table of leases: nobody else touches the bridge. The namespace must have
    no interface of the lease's name. With hold the host's end stays down. extra is what the
    namespace had before, and is made again as far as it can be. Raises TorporError, and then has
    undone what it made.
    """
    undo: list[Callable[[], object]] = []
    try:
        work = _Build(load(), lease, netns_name, undo)
        try:
            return work.run(hold, extra)
        finally:
            work.close()
    except BaseException:
        for step in reversed(undo):
            step()
        raise


def add_extra(lease: Lease, netns_name: str, extra: "Status") -> list[str]:
    """What a namespace had before that others connect again; returns warnings.

    They may have given another MAC address, which many choose themselves. Raises TorporError where
    what they connected is not there.
    """
    netlink = load()
    netns = _open_netns(netns_name)
    try:
        return _within(netns, lambda: _add_extra(netlink, lease, extra))
    finally:
        os.close(netns)


def _add_extra(netlink: _Netlink, lease: Lease, extra: "Status") -> list[str]:
    socket = _Socket(netlink)
    try:
        _give_mac(socket, lease)
        return _Extra(socket, lease).add(extra)
    finally:
        socket.close()


def _give_mac(socket: "_Socket", lease: Lease) -> None:
    """The link's own IPv6 address follows from it when the link is set up.

    What goes when that is set down was saved: routes, and IPv6 addresses.
    """
    index = _index_of(lease.interface)
    if lease.mac in ("", socket.mac(index)):
        return
    _set_sysctl(f"ipv6/conf/{lease.interface}/accept_dad", "0")
    for said in ({"state": "down"}, {"address": lease.mac}, {"state": "up"}):
        socket.link("mac", lease.mac, "set", index=index, **said)


def _open_netns(name: str) -> int:
    path = f"{ROOT}/{name}"
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise TorporError(f"network: {path}: {error.strerror}", "start it again") from error


def remove_unused(name: str) -> list[str]:
    """Remove a bridge that torpor made, if nothing is on it any more; returns warnings."""
    device = f"{_DEVICES}/{name}"
    try:
        if not is_ours(name) or os.listdir(f"{device}/brif"):
            return []
    except FileNotFoundError:
        return []
    reason = _delete(name)
    return [f"bridge {name} cannot be removed: {reason}"] if reason else []


def own() -> set[str]:
    """The bridges that torpor made."""
    return {name for name in os.listdir(_DEVICES) if is_ours(name)}


def unplug(container_name: str) -> list[str]:
    """Remove the host's ends of what connected a container; returns warnings."""
    alias = _port_alias(container_name)
    ports = [name for name in os.listdir(_DEVICES) if _alias(name) == alias]
    reasons = [(name, _delete(name)) for name in ports]
    return [f"{name} cannot be removed: {reason}" for name, reason in reasons if reason]


def _port_alias(container_name: str) -> str:
    return f"{ALIAS}:{container_name}"


def _delete(device: str) -> str:
    """Remove an interface and its peer; why it could not be done, or ""."""
    reason = _ip("link", "delete", "dev", device)
    return reason if os.path.exists(f"{_DEVICES}/{device}") else ""


def _ip(*words: str) -> str:
    return program.run(["ip", *words], timeout_s=_TIMEOUT_S)


def _is_up(device: str) -> bool:
    flags = process.read_small(f"{_DEVICES}/{device}/flags").strip()
    return bool(int(flags or "0", 16) & _UP)


def is_ours(bridge: str) -> bool:
    """Whether torpor made it.

    The kernel takes the alias only of a bridge that is there; who was killed in between has left
    one with the address that torpor gives it at once.
    """
    if _alias(bridge) == ALIAS:
        return True
    device = f"{_DEVICES}/{bridge}"
    is_bridge = os.path.isdir(f"{device}/bridge")
    return is_bridge and process.read_small(f"{device}/address").strip() == _own_mac(bridge)


def _own_mac(bridge: str) -> str:
    """Of a bridge that torpor makes: without one it has that of one port or another."""
    import zlib

    seed = zlib.crc32(f"{bridge} {state.boot_id()}".encode())
    return "0a:83:" + seed.to_bytes(4, "big").hex(":")


def _alias(device: str) -> str:
    return process.read_small(f"{_DEVICES}/{device}/ifalias").strip()


class _Build:
    """One set-up. Each step that makes something says how it is undone."""

    def __init__(
        self,
        netlink: _Netlink,
        lease: Lease,
        netns_name: str,
        undo: "list[Callable[[], object]]",
    ) -> None:
        self._netlink = netlink
        self._lease = lease
        self._netns_name = netns_name
        self._undo = undo
        self._host = _Socket(netlink)

    def close(self) -> None:
        self._host.close()

    def run(self, hold: bool, extra: "Status | None") -> list[str]:
        lease = self._lease
        bridge = self._bridge()
        mtu = lease.mtu or _number_of(lease.network, "mtu")
        netns = _open_netns(self._netns_name)
        try:
            device = self._veth(netns)
            self._host.link("mtu", str(mtu), "set", index=device, mtu=mtu)
            warnings = _within(netns, lambda: _configure(self._netlink, lease, mtu, extra))
        finally:
            os.close(netns)
        self._plug(device, bridge, hold)
        self._forward()
        return warnings

    def _bridge(self) -> int:
        """Have the bridge and its addresses; returns its index."""
        name = self._lease.network
        if not os.path.exists(f"{_DEVICES}/{name}"):
            problem = f"{name} cannot be made"
            mac = _own_mac(name)
            self._host.link("bridge", problem, "add", ifname=name, kind="bridge", address=mac)
            self._undo.append(lambda: _delete(name))
            fault.point("bridge")
        elif not os.path.isdir(f"{_DEVICES}/{name}/bridge"):
            raise TorporError(
                f"network: bridge: {name} is an interface of this host, and no bridge",
                "name a bridge, or one that is not there: torpor makes it",
            )
        index = _number_of(name, "ifindex")
        if is_ours(name) and _alias(name) != ALIAS:
            self._mark(name, index)
        for version, address in _by_version(
            self._lease.bridge_address, self._lease.bridge_address6
        ):
            self._give_bridge(version, address, index)
        if not _is_up(name):
            self._host.link("bridge", f"{name} cannot be set up", "set", index=index, state="up")
            self._undo.append(lambda: _ip("link", "set", "dev", name, "down"))
        return index

    def _mark(self, name: str, index: int) -> None:
        """Configure a bridge that torpor has made just now."""
        self._host.link("bridge", f"{name} cannot be made", "set", index=index, ifalias=ALIAS)
        # No container is a router of the host's.
        _set_sysctl(f"ipv6/conf/{name}/accept_ra", "0")
        _set_sysctl(f"ipv6/conf/{name}/accept_dad", "0")
        if self._lease.bridge_address6:
            _set_sysctl(f"ipv6/conf/{name}/disable_ipv6", "0")

    def _give_bridge(self, version: int, address: str, index: int) -> None:
        import ipaddress

        wanted = ipaddress.ip_interface(address)
        key = _SUBNET_KEY[version]
        for other, said in self._host.addresses(version):
            if other == index and said == address:
                return
            if ipaddress.ip_interface(said).ip in wanted.network:
                raise TorporError(
                    f"network: {key}: {wanted.network}: interface {_name_of(other)} of this host "
                    f"has {said} already",
                    "choose another subnet, or say which gateway: the bridge has",
                )
        self._host.give(key, f"{address} for the bridge", version, address, index)
        device = self._lease.network
        self._undo.append(lambda: _ip("address", "delete", address, "dev", device))

    def _veth(self, netns: int) -> int:
        """Make the pair, one end in the namespace; returns the index of the host's end."""
        device = self._lease.device
        problem = f"{device} and its peer {self._lease.interface} cannot be made"
        peer = {"ifname": self._lease.interface, "net_ns_fd": netns}
        if os.path.exists(f"{_DEVICES}/{device}"):  # of a namespace that somebody still lives in
            _delete(device)
        self._host.link("bridge", problem, "add", ifname=device, kind="veth", peer=peer)
        self._undo.append(lambda: _delete(device))
        index = _number_of(device, "ifindex")
        alias = _port_alias(self._netns_name.removeprefix(PREFIX))
        self._host.link("bridge", problem, "set", index=index, ifalias=alias)
        # It is a port, and speaks to nobody itself.
        _set_sysctl(f"ipv6/conf/{device}/disable_ipv6", "1")
        return index

    def _plug(self, device: int, bridge: int, hold: bool) -> None:
        problem = f"{self._lease.device} cannot be a port of {self._lease.network}"
        self._host.link("bridge", problem, "set", index=device, master=bridge)
        if self._lease.publish:
            # A container may speak to its own published port, and where br_netfilter is on, that
            # goes back by the port it came from.
            path = f"{_DEVICES}/{self._lease.device}/brport/hairpin_mode"
            if reason := _write(path, "1"):
                raise TorporError(f"network: publish: {path}: {reason}")
        if not hold:
            self._host.link("bridge", problem, "set", index=device, state="up")

    def _forward(self) -> None:
        """Have the host route what comes from the bridge."""
        if self._lease.bridge_address:
            _require_sysctl("bridge", "ipv4/ip_forward", "1")
        if self._lease.bridge_address6 and _sysctl("ipv6/conf/all/forwarding") != "1":
            _keep_advertisements()
            _require_sysctl("ipv6", "ipv6/conf/all/forwarding", "1")


class _Socket:
    """netlink in the network namespace that this thread is in when it is opened.

    What is asked of it is done, or raises TorporError with the lease's key and the kernel's words.
    """

    def __init__(self, netlink: _Netlink) -> None:
        self._error = netlink.Error
        try:
            self._route = netlink.Route(ext_ack=True)
            # Nothing that others do is of interest.
            self._route.bind(groups=0)
        except OSError as error:
            raise TorporError(f"network: netlink: {error.strerror}") from error

    def close(self) -> None:
        self._route.close()

    def link(self, key: str, problem: str, verb: str, **said: object) -> None:
        self._ask(key, problem, lambda: self._route.link(verb, **said))

    def mac(self, index: int) -> str:
        (message,) = self._route.get_links(index)
        return str(dict(message["attrs"]).get("IFLA_ADDRESS", ""))

    def addresses(self, version: int) -> "Iterator[tuple[int, str]]":
        """Index of an interface, and an address of it with its length."""
        for message in self._route.get_addr(family=_AF[version]):
            attributes = dict(message["attrs"])
            address = attributes.get("IFA_LOCAL") or attributes["IFA_ADDRESS"]
            yield message["index"], f"{address}/{message['prefixlen']}"

    def give(
        self, key: str, problem: str, version: int, place: str, index: int, **more: object
    ) -> None:
        """Add an address, "ADDRESS/LENGTH", to an interface, unless it is there."""
        host, _, length = place.partition("/")
        said = {"index": index, "address": host, "prefixlen": int(length), "family": _AF[version]}
        if version == 4:
            said["local"] = host
        else:
            said["flags"] = _NODAD  # at once to be used, also where there is no carrier yet
        said.update(more)
        self._ask(key, problem, lambda: self._route.addr("add", **said), is_repeatable=True)

    def route(self, key: str, problem: str, version: int, network: str, **said: object) -> None:
        """Make a route of the main table, in the place of one to the same network."""
        said.update(dst=network, family=_AF[version])
        self._ask(key, problem, lambda: self._route.route("replace", **said))

    def _ask(
        self, key: str, problem: str, ask: "Callable[[], object]", *, is_repeatable: bool = False
    ) -> None:
        try:
            ask()
        except self._error as error:
            code, words = error.args
            if is_repeatable and code == _EEXIST:
                return
            reason = os.strerror(code)
            said = reason if words == reason else f"{reason} ({str(words).strip()})"
            raise TorporError(f"network: {key}: {problem}: {said}", "see: dmesg | tail") from error
        except OSError as error:
            raise TorporError(f"network: {key}: {problem}: {error}") from error


def _configure(netlink: _Netlink, lease: Lease, mtu: int, extra: "Status | None") -> list[str]:
    """Configure the container's end, in whose namespace we are; returns warnings."""
    from torpor import loopback

    socket = _Socket(netlink)
    try:
        index = _index_of(lease.interface)
        name = lease.interface
        socket.link("mtu", str(mtu), "set", index=index, mtu=mtu)
        if lease.mac:
            socket.link("mac", lease.mac, "set", index=index, address=lease.mac)
        # Nobody else has its addresses: what it restores may use the link's at once too.
        _set_sysctl(f"ipv6/conf/{name}/accept_dad", "0")
        if lease.address6:
            _set_sysctl(f"ipv6/conf/{name}/disable_ipv6", "0")
            _set_sysctl(f"ipv6/conf/{name}/accept_ra", "0")
        for version, address in _by_version(lease.address, lease.address6):
            more = {"broadcast": _broadcast(address)} if version == 4 else {}
            socket.give(_ADDRESS_KEY[version], address, version, address, index, **more)
        loopback.set_up()
        socket.link("bridge", f"{name} cannot be set up", "set", index=index, state="up")
        for version, gateway in _by_version(lease.gateway, lease.gateway6):
            said: dict[str, object] = {"gateway": gateway, "oif": index}
            if not _is_within(gateway, lease.address6 if version == 6 else lease.address):
                said["flags"] = _ONLINK
            socket.route("gateway", gateway, version, _ANYWHERE[version], **said)
        return _Extra(socket, lease).add(extra) if extra is not None else []
    finally:
        socket.close()


class _Extra:
    """What a namespace had beyond its lease; what cannot be made again is warned of."""

    def __init__(self, socket: _Socket, lease: Lease) -> None:
        self._socket = socket
        self._indexes = {name: _index_of(name) for name in (_LOOPBACK, lease.interface)}
        self._warnings: list[str] = []

    def add(self, extra: "Status") -> list[str]:
        """Returns the warnings."""
        for name in sorted(extra.mtus.keys() - self._indexes.keys()):
            self._warnings.append(f"network: interface {name!a} is not made again")
        for name in extra.mtus.keys() & self._indexes.keys():
            self._try(self._mtu, name, extra.mtus[name])
        for address in extra.addresses:
            if address.interface in self._indexes:
                self._try(self._address, address)
        # Those that lead to gateways come first.
        for route in sorted(extra.routes, key=lambda route: bool(route.gateway)):
            if not route.interface or route.interface in self._indexes:
                self._try(self._route, route)
        self._warnings += [f"network: {reason}" for reason in extra.left_out]
        return self._warnings

    def _try(self, step: "Callable[..., None]", *words: object) -> None:
        try:
            step(*words)
        except TorporError as error:
            self._warnings.append(error.message)

    def _mtu(self, name: str, mtu: int) -> None:
        problem = f"{mtu} of {name}"
        self._socket.link("mtu", problem, "set", index=self._indexes[name], mtu=mtu)

    def _address(self, one: "Address") -> None:
        version = _version(one.address)
        said: dict[str, object] = {"scope": one.scope}
        if one.peer:
            said["address"] = one.peer
            said["local"] = one.address.partition("/")[0]
        if one.broadcast:
            said["broadcast"] = one.broadcast
        if one.is_without_route:
            said["flags"] = _NOPREFIXROUTE | (_NODAD if version == 6 else 0)
        if one.valid_s != FOREVER_S:
            said["cacheinfo"] = {"valid": one.valid_s, "preferred": one.preferred_s}
        problem = f"{one.address} on {one.interface}"
        index = self._indexes[one.interface]
        self._socket.give(_ADDRESS_KEY[version], problem, version, one.address, index, **said)

    def _route(self, one: "Route") -> None:
        version = _version(one.destination)
        said: dict[str, object] = {"type": _TYPES[one.kind], "proto": one.protocol}
        if version == 4:
            said["scope"] = one.scope
        for key, value in (("gateway", one.gateway), ("prefsrc", one.source)):
            if value:
                said[key] = value
        if one.interface and one.kind == "unicast":
            said["oif"] = self._indexes[one.interface]
        if one.metric:
            said["priority"] = one.metric
        if one.is_onlink:
            said["flags"] = _ONLINK
        if one.metrics:
            said["metrics"] = dict(one.metrics)
        self._socket.route("gateway", f"route {one}", version, one.destination, **said)


def _within(netns: int, work: "Callable[[], list[str]]") -> list[str]:
    """Do something in a network namespace; this thread comes back."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.setns(netns, os.CLONE_NEWNET)
        try:
            return work()
        finally:
            os.setns(own, os.CLONE_NEWNET)
    finally:
        os.close(own)


def _by_version(four: str, six: str) -> list[tuple[int, str]]:
    return [(version, said) for version, said in ((4, four), (6, six)) if said]


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _broadcast(address: str) -> str:
    import ipaddress

    return str(ipaddress.ip_interface(address).network.broadcast_address)


def _is_within(address: str, subnet: str) -> bool:
    import ipaddress

    if not subnet:
        return False
    found = ipaddress.ip_address(address)
    return found.is_link_local or found in ipaddress.ip_interface(subnet).network


def _index_of(interface: str) -> int:
    """In this thread's network namespace, which /sys need not show."""
    import _socket

    try:
        return _socket.if_nametoindex(interface)
    except OSError as error:
        raise TorporError(f"network: interface {interface}: {error.strerror}") from error


def _name_of(index: int) -> str:
    import _socket

    try:
        return _socket.if_indextoname(index)
    except OSError:
        return str(index)


def _number_of(device: str, what: str) -> int:
    """A number that the kernel says of an interface of the host."""
    text = process.read_small(f"{_DEVICES}/{device}/{what}").strip()
    if not text.isdigit():
        raise TorporError(
            f"network: bridge: interface {device} is gone", "somebody else removed it: start again"
        )
    return int(text)


def _keep_advertisements() -> None:
    """Go on believing the routers that were believed so far (ip-sysctl of the kernel).

    A host that forwards heeds their advertisements only where accept_ra is 2: without this it
    would lose its own default route a while later.
    """
    for name in os.listdir(f"{_SYSCTLS}/ipv6/conf"):
        believes = name not in ("all", "default") and not is_ours(name)
        if believes and _sysctl(f"ipv6/conf/{name}/accept_ra") == "1":
            _set_sysctl(f"ipv6/conf/{name}/accept_ra", "2")


def _sysctl(name: str) -> str:
    return process.read_small(f"{_SYSCTLS}/{name}").strip()


def _set_sysctl(name: str, value: str) -> None:
    """Where there is no such thing, because the kernel has no IPv6, nothing is needed either."""
    _write(f"{_SYSCTLS}/{name}", value)


def _require_sysctl(key: str, name: str, value: str) -> None:
    if _sysctl(name) != value and (reason := _write(f"{_SYSCTLS}/{name}", value)):
        raise TorporError(
            f"network: {key}: {_SYSCTLS}/{name} cannot be set to {value}: {reason}",
            f"see: sysctl net.{name.replace('/', '.')}",
        )


def _write(path: str, text: str) -> str:
    """Why it could not be written, or ""."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.strerror or str(error)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(fd)
    return ""
