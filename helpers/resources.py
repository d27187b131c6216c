"""What a container may use, in the words of systemd.resource-control(5).

Each value is checked here, because systemd ignores a line that it cannot read.
"""

import functools
import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass

from torpor import limits, values
from torpor.values import WrongError
from torpor.yaml_tree import Node, shown

INFINITY = "infinity"
IDLE = "idle"
_UNLIMITED = (1 << 64) - 1  # CGROUP_LIMIT_MAX and USEC_INFINITY of systemd
_UINT32_MAX = (1 << 32) - 1  # 100 % of a ...Scale property
_PERMYRIAD = 10_000  # systemd reads a percentage with two decimals
_WEIGHT_MAX = 10_000  # CGROUP_WEIGHT_MAX; 0 is CGROUP_WEIGHT_IDLE
_TASKS_MAX = 1 << 22  # PID_MAX_LIMIT of Linux
_CPUS_MAX = 8192  # systemd's parse_cpu_set()
_QUOTA_MAX_PERMYRIAD = _CPUS_MAX * _PERMYRIAD
_PERCENT = re.compile(r"([0-9]{1,7})(?:\.([0-9]{1,2}))?%")
_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
_DEVICE = re.compile(r"(/[^\s\"'\\]*)\s+(\S+)")
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?")
_ADDRESS_WORDS = ("any", "localhost", "link-local", "multicast")
_OOM_POLICIES = ("continue", "stop", "kill")  # systemd.service(5)

_COMPARED = ("t", "s", "ay")

Property = tuple[str, str, object]  # a D-Bus property: name, signature, value


@dataclass(frozen=True)
class Resources:
    """Directives and values as a unit file has them; a directive may come several times."""

    directives: tuple[tuple[str, str], ...] = ()


NONE = Resources()


@dataclass(frozen=True)
class _Directive:
    """A directive of a unit file: how its value is read, and how systemd's bus has it."""

    name: str
    read: Callable[[Node], tuple[str, ...]]
    to_bus: Callable[[str, list[str]], Property]
    controller: str = ""  # of cgroup v2, where the kernel needs one


def parse_resources(node: Node) -> Resources:
    """The limits and weights of a mapping, in its order."""
    directives: list[tuple[str, str]] = []
    for key, (line, value) in values.pairs(node).items():
        if (directive := _TABLE.get(key)) is None:
            hint = values.nearest(key, _TABLE)
            raise WrongError(f"'{shown(key)}' is unknown here", hint, line)
        try:
            directives += [(directive.name, word) for word in directive.read(value)]
        except WrongError as wrong:
            raise WrongError(f"{key}: {wrong.problem}", wrong.hint, wrong.line or line) from None
    return Resources(tuple(directives))


def unit_lines(resources: Resources) -> list[str]:
    """The lines of a unit's [Service] section."""
    return [f"{name}={_escaped(word)}" for name, word in resources.directives]


def of_unit(resources: Resources) -> Resources:
    """What holds for the whole unit: all but limits, under which it could not be put to sleep."""
    return Resources(tuple(one for one in resources.directives if one[0] not in limits.NAMES))


def of_payload(resources: Resources) -> tuple[tuple[str, str], ...]:
    """The directives that hold for the container's processes alone, see limits."""
    return tuple(one for one in resources.directives if one[0] in limits.HELD)


def bus_properties(resources: Resources) -> list[Property]:
    """What org.freedesktop.systemd1(5) calls them: name, signature and value.

    A percentage of memory or tasks has the name MemoryMaxScale and so on, and systemd knows of what
    (systemd's shared/bus-unit-util.c).
    """
    given: dict[str, list[str]] = {}
    for name, word in resources.directives:
        given.setdefault(name, []).append(word)
    return [_BY_NAME[name].to_bus(name, found) for name, found in given.items()]


def bus_names() -> list[str]:
    """The properties in which a running unit shows its limits and weights."""
    return [_BUS_NAMES.get(name, name) for name in _BY_NAME]


def overruled(resources: Resources, found: Mapping[str, object]) -> list[tuple[str, str, str]]:
    """Where a unit has other values than resources: the property, its value, the one asked for.

    Percentages and lists are left out: systemd makes numbers of those, and merges these.
    """
    asked = [
        (name, words(name, value))
        for name, signature, value in bus_properties(resources)
        if signature in _COMPARED and name in found
    ]
    has = {name: words(name, value) for name, value in found.items()}
    return [(name, has[name], word) for name, word in asked if has[name] != word]


def without_controller(resources: Resources, controllers: Container[str]) -> dict[str, list[str]]:
    """The directives that nothing enforces where only these controllers are, by the missing one."""
    missing: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for name, _ in resources.directives):
        needed = _BY_NAME[name].controller
        if needed and needed not in controllers:
            missing.setdefault(needed, []).append(name)
    return missing


def words(bus_name: str, value: object) -> str:
    """A property's value as a unit file has it, for people to read."""
    if isinstance(value, bytes | list) and bus_name.startswith("Allowed"):
        return ranges(bytes(value)) or "all"  # pystemd has bytes as a list of numbers
    if isinstance(value, list):
        # systemd keeps addresses in a set: their order changes from reload to reload.
        return " ".join(sorted(_item(bus_name, item) for item in value)) or "none"
    if isinstance(value, bytes | str):
        return value.decode() if isinstance(value, bytes) else value
    if not isinstance(value, int):
        return "unknown"
    if bus_name.endswith("Weight"):
        return {_UNLIMITED: "default", 0: IDLE}.get(value, str(value))
    if value == _UNLIMITED:
        return INFINITY
    if bus_name == "CPUQuotaPerSecUSec":
        return f"{value / 10_000:g}%"
    return _shortest(value) if bus_name.startswith("Memory") else str(value)


def ranges(bitmap: bytes) -> str:
    """A set of CPUs or memory nodes, bit 0 of byte 0 first: 0-3 8; empty for all."""
    bits = int.from_bytes(bitmap, "little")
    found = re.finditer("1+", bin(bits)[:1:-1])
    return " ".join(_span(match.start(), match.end() - 1) for match in found)


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"


def _item(bus_name: str, item: object) -> str:
    """An element of a(st), a device and a number, or of a(iayu), an address and its prefix."""
    parts = item if isinstance(item, tuple | list) else (item,)
    if bus_name.startswith("IPAddress"):
        import ipaddress

        _, address, prefix = parts
        return f"{ipaddress.ip_address(bytes(address))}/{prefix}"
    return " ".join(part.decode() if isinstance(part, bytes) else str(part) for part in parts)


def _shortest(size_bytes: int) -> str:
    for shift, suffix in ((40, "T"), (30, "G"), (20, "M"), (10, "K")):
        if size_bytes and not size_bytes % (1 << shift):
            return f"{size_bytes >> shift}{suffix}"
    return str(size_bytes)


def _escaped(word: str) -> str:
    """systemd expands % in paths, and in nothing else that is written here."""
    return word.replace("%", "%%") if word.startswith("/") else word


def _limit(node: Node, *, zero: bool = False) -> tuple[str, ...]:
    """A size, a percentage of the machine's memory, or infinity."""
    word = values.text(node)
    if word == INFINITY or (zero and word == "0"):
        return (word,)
    if "%" in word:
        return (_percentage(word, _PERMYRIAD),)
    try:
        values.size_bytes(node)
    except WrongError as wrong:
        hint = "Write for example 512M, 2G, 25% or infinity."
        raise WrongError(wrong.problem, hint, wrong.line) from None
    return (_suffixed(word),)


def _suffixed(word: str) -> str:
    """A size as systemd reads it: 64mb is 64M."""
    return word.strip().upper().removesuffix("B")


def _percentage(word: str, most_permyriad: int) -> str:
    match = _PERCENT.fullmatch(word)
    if not match or not 0 < limits.permyriad(word) <= most_permyriad:
        most = f"0.01% to {most_permyriad // 100}%"
        raise WrongError(f"'{shown(word)}' is not a percentage", f"Write {most}.")
    return word


def _quota(node: Node) -> tuple[str, ...]:
    return (_percentage(values.text(node), _QUOTA_MAX_PERMYRIAD),)


def _weight(node: Node, *, idle: bool = False) -> tuple[str, ...]:
    word = values.text(node)
    return (word,) if idle and word == IDLE else (_weight_number(word, idle=idle),)


def _weight_number(word: str, *, idle: bool = False) -> str:
    found = values.number(word)
    if found is None or not 1 <= found <= _WEIGHT_MAX:
        hint = f"Write 1 to {_WEIGHT_MAX}{' or idle' if idle else ''}; 100 is everybody's."
        raise WrongError(f"'{shown(word)}' is not a weight", hint)
    return str(found)


def _tasks(node: Node) -> tuple[str, ...]:
    word = values.text(node)
    if word == INFINITY:
        return (word,)
    if "%" in word:
        return (_percentage(word, _PERMYRIAD),)
    found = values.number(word)
    if found is None or not 1 <= found <= _TASKS_MAX:
        hint = f"Write 1 to {_TASKS_MAX}, a percentage of the machine's limit, or infinity."
        raise WrongError(f"'{shown(word)}' is not a number of tasks", hint)
    return (str(found),)


def _cpus(node: Node) -> tuple[str, ...]:
    bits = 0
    for text in values.list_of(values.text, node):
        for word in text.replace(",", " ").split():
            low, high = _bounds(word)
            bits |= (2 << high) - (1 << low)
    if not bits:
        raise WrongError("names none", "Write numbers and ranges, for example 0-3,8.")
    return (ranges(_bitmap(bits)),)


def _bounds(word: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(word)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not low <= high < _CPUS_MAX:
        hint = f"Write numbers from 0 to {_CPUS_MAX - 1} and ranges of them, for example 0-3,8."
        raise WrongError(f"'{shown(word)}' is neither a number nor a range", hint)
    return low, high


def _bitmap(bits: int) -> bytes:
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def _devices(read: Callable[[str], str], node: Node) -> tuple[str, ...]:
    """A device, or any path on it, and a value for it; or a list of such."""

    def one(item: Node) -> str:
        match = _DEVICE.fullmatch(words := values.text(item).strip())
        if match is None:
            problem = f"'{shown(words)}' is not a device and a value"
            raise WrongError(problem, "Write for example /dev/sda 10M.", item.line)
        return f"{values.absolute(match[1], item.line)} {read(match[2])}"

    return values.list_of(one, node)


def _rate(word: str) -> str:
    """A number for each second, with K, M, G, T for powers of 1000, or infinity."""
    if word == INFINITY:
        return word
    suffixed = _suffixed(word)
    if not re.fullmatch("[1-9][0-9]{0,11}[KMGT]?", suffixed):
        hint = "Write for example 500, 500K or 10M, in powers of 1000, or infinity."
        raise WrongError(f"'{shown(word)}' is not a rate", hint)
    return suffixed


def _addresses(node: Node) -> tuple[str, ...]:
    texts = values.list_of(values.text, node)
    found = dict.fromkeys(_address(word) for text in texts for word in text.split())
    if not found:
        raise WrongError("names none", f"Write an address or one of {', '.join(_ADDRESS_WORDS)}.")
    return tuple(found)


def _address(word: str) -> str:
    import ipaddress

    if word in _ADDRESS_WORDS:
        return word
    try:
        if _ADDRESS.fullmatch(word):
            return str(ipaddress.ip_network(word, strict=False))
    except ValueError:
        pass
    hint = f"Write 192.0.2.0/24, 2001:db8::1 or one of {', '.join(_ADDRESS_WORDS)}."
    raise WrongError(f"'{shown(word)}' is not an IP address with or without a prefix length", hint)


def _one_of(allowed: tuple[str, ...], node: Node) -> tuple[str, ...]:
    return (values.choice(allowed, node),)


def _number_to_bus(name: str, found: list[str]) -> Property:
    """A number, a size in bytes, infinity, or a percentage of what systemd knows."""
    word = found[-1]
    if word.endswith("%"):
        scale = (limits.permyriad(word) * _UINT32_MAX + _PERMYRIAD // 2) // _PERMYRIAD
        return f"{name}Scale", "u", scale
    return name, "t", _amount(word, 1024)


def _amount(word: str, base: int) -> int:
    if word in (INFINITY, IDLE):
        return _UNLIMITED if word == INFINITY else 0
    return limits.number(word, base)


def _quota_to_bus(name: str, found: list[str]) -> Property:
    """In microseconds of CPU time for each second."""
    return _BUS_NAMES[name], "t", limits.permyriad(found[-1]) * 100


def _set_to_bus(name: str, found: list[str]) -> Property:
    bits = sum((2 << high) - (1 << low) for low, high in map(_bounds, found[-1].split()))
    return name, "ay", _bitmap(bits)


def _text_to_bus(name: str, found: list[str]) -> Property:
    return name, "s", found[-1]


def _devices_to_bus(name: str, found: list[str]) -> Property:
    pairs = [word.rsplit(" ", 1) for word in found]
    return name, "a(st)", [(path, _amount(amount, 1000)) for path, amount in pairs]


def _addresses_to_bus(name: str, found: list[str]) -> Property:
    return name, "a(iayu)", [network for word in found for network in _networks(word)]


def _networks(word: str) -> Iterator[tuple[int, bytes, int]]:
    """An address family of Linux, the network's bytes, its prefix length."""
    import ipaddress

    for text in _NETWORKS.get(word, (word,)):
        network = ipaddress.ip_network(text)
        family = 2 if network.version == 4 else 10  # AF_INET and AF_INET6
        yield family, network.network_address.packed, network.prefixlen


_BUS_NAMES = {"CPUQuota": "CPUQuotaPerSecUSec"}
# systemd.resource-control(5), IPAddressAllow=
_NETWORKS = {
    "any": ("0.0.0.0/0", "::/0"),
    "localhost": ("127.0.0.0/8", "::1/128"),
    "link-local": ("169.254.0.0/16", "fe80::/64"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
}
_limit_or_zero = functools.partial(_limit, zero=True)
_rates = functools.partial(_devices, _rate)
_TABLE = {
    "memory-min": _Directive("MemoryMin", _limit_or_zero, _number_to_bus, "memory"),
    "memory-low": _Directive("MemoryLow", _limit_or_zero, _number_to_bus, "memory"),
    "memory-high": _Directive("MemoryHigh", _limit, _number_to_bus, "memory"),
    "memory-max": _Directive("MemoryMax", _limit, _number_to_bus, "memory"),
    "memory-swap-max": _Directive("MemorySwapMax", _limit_or_zero, _number_to_bus, "memory"),
    "memory-zswap-max": _Directive("MemoryZSwapMax", _limit_or_zero, _number_to_bus, "memory"),
    "cpu-weight": _Directive(
        "CPUWeight", functools.partial(_weight, idle=True), _number_to_bus, "cpu"
    ),
    "cpu-quota": _Directive("CPUQuota", _quota, _quota_to_bus, "cpu"),
    "allowed-cpus": _Directive("AllowedCPUs", _cpus, _set_to_bus, "cpuset"),
    "allowed-memory-nodes": _Directive("AllowedMemoryNodes", _cpus, _set_to_bus, "cpuset"),
    "tasks-max": _Directive("TasksMax", _tasks, _number_to_bus, "pids"),
    "io-weight": _Directive("IOWeight", _weight, _number_to_bus, "io"),
    "io-device-weight": _Directive(
        "IODeviceWeight", functools.partial(_devices, _weight_number), _devices_to_bus, "io"
    ),
    "io-read-bandwidth-max": _Directive("IOReadBandwidthMax", _rates, _devices_to_bus, "io"),
    "io-write-bandwidth-max": _Directive("IOWriteBandwidthMax", _rates, _devices_to_bus, "io"),
    "io-read-iops-max": _Directive("IOReadIOPSMax", _rates, _devices_to_bus, "io"),
    "io-write-iops-max": _Directive("IOWriteIOPSMax", _rates, _devices_to_bus, "io"),
    "ip-address-allow": _Directive("IPAddressAllow", _addresses, _addresses_to_bus),
    "ip-address-deny": _Directive("IPAddressDeny", _addresses, _addresses_to_bus),
    "oom-policy": _Directive("OOMPolicy", functools.partial(_one_of, _OOM_POLICIES), _text_to_bus),
}
KEYS = frozenset(_TABLE)
_BY_NAME = {directive.name: directive for directive in _TABLE.values()}
