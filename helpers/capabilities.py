"""The capabilities(7) of a container's processes."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torpor import values
from torpor.values import WrongError
from torpor.yaml_tree import Mapping, Node, shown

NAMES = (  # linux/capability.h of Linux 6.12, by number
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
DEFAULT = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")  # `runc spec`
# For a systemd and its services: podman's default, that of `runc spec`, and SYS_BOOT, with which an
# init ends its pid namespace, and tells why (reboot(2)). Not SYS_ADMIN: with it systemd makes
# namespaces that CRIU cannot dump.
FOR_SYSTEMD = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL"),
    *("CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID"),
    *("CAP_SYS_CHROOT", "CAP_SYS_BOOT", "CAP_AUDIT_WRITE"),
)

_ALL = "ALL"
_PREFIX = "CAP_"
_ROOT_SETS = ("bounding", "effective", "permitted")
_USER_SETS = (*_ROOT_SETS, "inheritable", "ambient")
_STATUS_FIELD = "CapBnd:"


@dataclass(frozen=True)
class Capabilities:
    """What is taken from a base set, then what is added to it: names, or ALL."""

    add: frozenset[str] = frozenset()
    drop: frozenset[str] = frozenset()


def parse(node: Node) -> Capabilities:
    """A list, which replaces any base, or a mapping of add and drop. Raises WrongError."""
    if not isinstance(node, Mapping):
        return Capabilities(_names(node), frozenset({_ALL}))
    unknown = next((key for key in node.entries if key not in ("add", "drop")), None)
    if unknown is not None:
        line, _ = node.entries[unknown]
        hint = values.nearest(unknown, ("add", "drop"))
        raise WrongError(f"'{shown(unknown)}' is unknown here", hint, line)
    changes = {key: _names(value) for key, (_, value) in node.entries.items()}
    wanted = Capabilities(**changes)
    if both := wanted.add & wanted.drop:
        raise WrongError(f"{min(both)} is both added and dropped", "Remove one.", node.line)
    return wanted


def section(
    base: dict[str, Any] | None,
    wanted: Capabilities | None,
    uid: int,
    available: Collection[str] = NAMES,
    default: Collection[str] = DEFAULT,
) -> dict[str, list[str]]:
    """process.capabilities for a first process of uid; base is its bundle's, None for a rootfs.

    What is added is ambient too where uid is not root's, as it is for podman's --cap-add: execve(2)
    takes from such a user all that is not ambient, and noNewPrivileges what a file would give. The
    base only bounds what that user can have. ALL adds what is available, see bounding_set().
    Raises WrongError where base is not what the runtime specification says.
    """
    defaults = _default(uid, default)
    sets = defaults if base is None else {name: _read(base, name) for name in _USER_SETS}
    wanted = wanted or Capabilities()
    added = frozenset(available) - wanted.drop if _ALL in wanted.add else wanted.add
    for name in _USER_SETS:
        kept = frozenset() if _ALL in wanted.drop else sets[name] - wanted.drop
        sets[name] = kept | added if uid != 0 or name in _ROOT_SETS else kept
    return {name: sorted(found) for name, found in sets.items() if found or name in _ROOT_SETS}


def bounding_set() -> frozenset[str]:
    """What this process could give: its bounding set. Raises OSError."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        mask = next((line.split()[1] for line in status if line.startswith(_STATUS_FIELD)), "0")
    return named(int(mask, 16))


def named(mask: int) -> frozenset[str]:
    """The names of the bits of mask; those of a newer kernel have none."""
    return frozenset(name for bit, name in enumerate(NAMES) if mask >> bit & 1)


def _default(uid: int, names: Collection[str]) -> dict[str, frozenset[str]]:
    usable = _ROOT_SETS if uid == 0 else ("bounding",)
    return {name: frozenset(names if name in usable else ()) for name in _USER_SETS}


def _read(base: object, name: str) -> frozenset[str]:
    if not isinstance(base, dict):
        raise WrongError("process.capabilities is not an object")
    names = [] if base.get(name) is None else base[name]
    if not isinstance(names, list) or not all(isinstance(entry, str) for entry in names):
        raise WrongError(f"process.capabilities.{name} is not a list of names")
    return frozenset(names)


def _names(node: Node) -> frozenset[str]:
    return frozenset(values.list_of(_name, node))


def _name(node: Node) -> str:
    words = values.text(node)
    short = words.upper().removeprefix(_PREFIX)
    if short == _ALL:
        return _ALL
    if _PREFIX + short not in NAMES:
        known = (name.removeprefix(_PREFIX).lower() for name in NAMES)
        hint = values.nearest(short, known)
        raise WrongError(f"'{shown(words)}' is not a capability", hint, node.line)
    return _PREFIX + short
