"""What the kernel holds a container's first process to from the start: rlimits and the umask."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torpor import values
from torpor.values import WrongError
from torpor.yaml_tree import Node, shown

INFINITY = (1 << 64) - 1  # RLIM_INFINITY of Linux, as the runtime specification writes it
_NAMES = (  # all that runc knows, which is all of setrlimit(2)
    "AS",
    "CORE",
    "CPU",
    "DATA",
    "FSIZE",
    "LOCKS",
    "MEMLOCK",
    "MSGQUEUE",
    "NICE",
    "NOFILE",
    "NPROC",
    "RSS",
    "RTPRIO",
    "RTTIME",
    "SIGPENDING",
    "STACK",
)
_PREFIX = "RLIMIT_"
_BOUNDLESS = ("unlimited", "infinity")


@dataclass(frozen=True)
class Rlimit:
    """A resource limit in the units of setrlimit(2); type is RLIMIT_NOFILE, RLIMIT_CORE, ..."""

    type: str
    soft: int
    hard: int


DEFAULT = (Rlimit("RLIMIT_NOFILE", 1024, 1024),)  # `runc spec`


def parse(node: Node) -> tuple[Rlimit, ...]:
    """A mapping of NAME: SOFT[:HARD], in the order of the names. Raises WrongError."""
    limits: dict[str, Rlimit] = {}
    for name, (line, value) in values.pairs(node).items():
        limit = _limit(_type(name, line), value)
        if limit.type in limits:
            raise WrongError(f"{limit.type} is given twice", "Remove one.", line)
        limits[limit.type] = limit
    return tuple(limits[kind] for kind in sorted(limits))


def section(base: Iterable[Any], limits: Iterable[Rlimit]) -> list[Any]:
    """process.rlimits: base, in which limits replace those of their type."""
    ours = {limit.type: limit for limit in limits}
    kept = [entry for entry in base if not (isinstance(entry, dict) and _of(entry) in ours)]
    return kept + [
        {"type": limit.type, "soft": limit.soft, "hard": limit.hard} for limit in ours.values()
    ]


def umask(node: Node) -> int:
    """A file mode creation mask, in octal as umask(1) has it. Raises WrongError."""
    if not re.fullmatch("0?[0-7]{1,3}", words := values.text(node)):
        hint = "Write it in octal, 000 to 777: umask: 022"
        raise WrongError(f"'{shown(words)}' is not a umask", hint, node.line)
    return int(words, 8)


def _of(entry: dict[str, Any]) -> str:
    return kind if isinstance(kind := entry.get("type"), str) else ""


def _type(name: str, line: int) -> str:
    if (short := name.upper().removeprefix(_PREFIX)) not in _NAMES:
        hint = values.nearest(short, map(str.lower, _NAMES))
        raise WrongError(f"'{shown(name)}' is not a limit of setrlimit(2)", hint, line)
    return _PREFIX + short


def _limit(kind: str, node: Node) -> Rlimit:
    soft, colon, hard = (words := values.text(node)).partition(":")
    limit = Rlimit(kind, _amount(soft, node.line), _amount(hard if colon else soft, node.line))
    if limit.soft > limit.hard:
        hint = "Write the soft limit first: SOFT:HARD"
        raise WrongError(f"'{shown(words)}' has a soft limit above the hard one", hint, node.line)
    if kind == "RLIMIT_NOFILE" and limit.hard == INFINITY:
        hint = "The most it allows is in /proc/sys/fs/nr_open: write a number."
        raise WrongError("the kernel has no unlimited RLIMIT_NOFILE", hint, node.line)
    return limit


def _amount(words: str, line: int) -> int:
    if words.lower() in _BOUNDLESS:
        return INFINITY
    if not re.fullmatch("[0-9]{1,20}", words) or (amount := int(words)) > INFINITY:
        hint = "Write SOFT or SOFT:HARD, each a whole number or unlimited."
        raise WrongError(f"'{shown(words)}' is not a limit", hint, line)
    return amount
