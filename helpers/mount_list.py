"""Mounts: what a definition asks for, and the order and precedence in a configuration.

A mount is {destination, source, type, options} (config.md of the OCI runtime specification,
"Mounts"), or SOURCE:DESTINATION[:OPTIONS] as people write it.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torpor import values
from torpor.container import valid_name
from torpor.values import WrongError
from torpor.yaml_tree import Mapping, Node, Scalar, shown

BIND = "bind"
TMPFS = "tmpfs"
VOLUME = "volume"

# Kernel file systems that hold nothing of the host's disks; any other must be mounted by a unit
# and bound, so that what is mounted twice is systemd's to know.
_TYPES = (BIND, TMPFS, VOLUME, "proc", "sysfs", "mqueue", "devpts", "cgroup")
_KEYS = ("destination", "source", "type", "options")
_BIND_OPTIONS = ("bind", "rbind")
_RELABELLING = ("z", "Z")
_OPTION = re.compile(r"[A-Za-z0-9_.%/:+-]+(=[^,\0\n]*)?")


@dataclass(frozen=True)
class Mount:
    """One mount of a definition. kind is one of _TYPES; source is empty where it means nothing.

    options do not hold bind or rbind; recursive is the latter. line is that of the definition.
    """

    destination: str
    kind: str
    source: str = ""
    options: tuple[str, ...] = ()
    recursive: bool = True
    line: int = 0


def parse(node: Node) -> tuple[Mount, ...]:
    """The list `mounts:` of a definition."""
    mounts = values.list_of(_mount, node)
    seen: set[str] = set()
    for mount in mounts:
        if mount.destination in seen:
            raise WrongError(
                f"{shown(mount.destination)} is mounted twice", "Remove one.", mount.line
            )
        seen.add(mount.destination)
    return mounts


def _mount(node: Node) -> Mount:
    if isinstance(node, Mapping):
        return _from_mapping(node)
    if isinstance(node, Scalar):
        return _from_words(node)
    raise WrongError("a mount is a list", "Write SOURCE:DESTINATION[:OPTIONS].", node.line)


def _from_words(node: Scalar) -> Mount:
    parts = values.text(node).split(":")
    if not 2 <= len(parts) <= 3:
        hint = (
            "Write SOURCE:DESTINATION[:OPTIONS], or {source: S, destination: D, options: [O, P]} "
            "for paths that hold a colon."
        )
        raise WrongError(f"'{shown(node.text)}' is no mount", hint, node.line)
    options = parts[2].split(",") if len(parts) == 3 and parts[2] else []
    kind = TMPFS if parts[0] == TMPFS else BIND if parts[0].startswith("/") else VOLUME
    return _made(node.line, parts[1], "" if kind == TMPFS else parts[0], kind, options)


def _from_mapping(node: Mapping) -> Mount:
    for key, (line, _) in node.entries.items():
        if key not in _KEYS:
            raise WrongError(f"a mount has no '{shown(key)}'", values.nearest(key, _KEYS), line)
    text = {key: values.text(value) for key, (_, value) in node.entries.items() if key != "options"}
    options = node.entries.get("options")
    listed = values.list_of(values.text, options[1]) if options else ()
    if "destination" not in text:
        raise WrongError("a mount has no destination", "Add  destination: /PATH", node.line)
    source = text.get("source", "")
    kind = text.get("type") or _guessed(source, listed)
    return _made(node.line, text["destination"], source, kind, listed)


def _guessed(source: str, options: Iterable[str]) -> str:
    """As runc: an absolute source or an option bind makes it one."""
    if source.startswith("/") or any(option in _BIND_OPTIONS for option in options):
        return BIND
    return VOLUME if source and source != TMPFS else TMPFS


def _made(line: int, destination: str, source: str, kind: str, options: Iterable[str]) -> Mount:
    if kind == "none" and any(option in _BIND_OPTIONS for option in options):
        kind = BIND
    if kind not in _TYPES:
        hint = f"Known: {', '.join(_TYPES)}. Mount others with a mount unit, and bind them."
        raise WrongError(f"'{shown(kind)}' is no type of mount here", hint, line)
    where = values.absolute(destination, line)
    if where == "/":
        raise WrongError("/ cannot be mounted over", "It is what rootfs: or image: says.", line)
    options = tuple(options)
    for option in options:
        if not _OPTION.fullmatch(option):
            raise WrongError(f"'{shown(option)}' is no mount option", "", line)
        if option in _RELABELLING and kind not in (BIND, VOLUME):
            hint = f"It is for files that are there already: leave {option} out."
            raise WrongError(f"a {kind} has no files to relabel", hint, line)
    others = tuple(option for option in options if option not in _BIND_OPTIONS)
    # As podman: with what is mounted below it, unless one says bind.
    recursive = BIND not in options
    return Mount(where, kind, _source(kind, source, line), others, recursive, line)


def _source(kind: str, source: str, line: int) -> str:
    if kind == BIND:
        return values.absolute(source, line)
    if kind == VOLUME:
        if not valid_name(source):
            hint = "A name is 1 to 64 letters, digits, '_', '.' and '-'; a path begins with /."
            raise WrongError(f"'{shown(source)}' is neither a volume's name nor a path", hint, line)
        return source
    return ""


def entry(mount: Mount, source: str) -> dict[str, Any]:
    """The OCI mount of one in a definition; source is the host's path for binds and volumes."""
    if mount.kind in (BIND, VOLUME):
        options = ["rbind" if mount.recursive else "bind", *mount.options]
        return bind(source, mount.destination, options)
    options = list(mount.options)
    if mount.kind == TMPFS:
        options = ["nosuid", "nodev", *(o for o in options if o not in ("nosuid", "nodev"))]
    return {
        "destination": mount.destination,
        "type": mount.kind,
        "source": mount.kind,
        "options": options,
    }


def bind(source: str, destination: str, options: Iterable[str]) -> dict[str, Any]:
    """A bind mount in OCI's form; private, unless the options say otherwise.

    CRIU cannot dump a mount whose propagation leads out of the container.
    """
    found = list(options)
    if not any(option in _PROPAGATION for option in found):
        found.append("rprivate")
    return {"destination": destination, "type": BIND, "source": source, "options": found}


_PROPAGATION = tuple(
    prefix + word for prefix in ("", "r") for word in ("private", "shared", "slave", "unbindable")
)


def is_bind(mount: dict[str, Any]) -> bool:
    """Whether an OCI mount is a bind mount, in the words that runc goes by."""
    options = mount.get("options") or []
    return mount.get("type") == BIND or any(option in options for option in _BIND_OPTIONS)


def normal(destination: object) -> str:
    """A destination as mounts are compared by; the specification wants it absolute."""
    return os.path.normpath("/" + str(destination).lstrip("/"))


def merged(
    base: Sequence[dict[str, Any]], wanted: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """base with wanted, which win over what is mounted in the same place, in a safe order.

    Returns the mounts and the destinations that were replaced. What is mounted several times in
    base, and not in wanted, stays so: the later ones may be remounts.
    """
    by_place: dict[str, list[dict[str, Any]]] = {}
    for mount in base:
        by_place.setdefault(normal(mount.get("destination")), []).append(mount)
    replaced = []
    for mount in wanted:
        place = normal(mount["destination"])
        if place in by_place:
            replaced.append(place)
        by_place[place] = [mount]
    return [mount for place in _sorted(by_place) for mount in by_place[place]], replaced


def _sorted(places: Iterable[str]) -> list[str]:
    """So that no mount covers a deeper one that was mounted before; otherwise the order stays."""
    left = dict.fromkeys(places)
    found = []
    for place in [*left]:
        for above in (*_above(place), place):
            if above in left:
                del left[above]
                found.append(above)
    return found


def _above(place: str) -> Iterator[str]:
    """The directories that hold a normalised place, the root first."""
    if place != "/":
        yield "/"
    yield from (place[:end] for end in range(1, len(place)) if place[end] == "/")
