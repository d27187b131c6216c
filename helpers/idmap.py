"""The ids of a user namespace: which ids of the host those of a container are.

Format and limits: user_namespaces(7), "User and group ID mappings".
"""

import itertools
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torpor import accounts, regular_file, values
from torpor.values import WrongError
from torpor.yaml_tree import Mapping, Node, Sequence, shown

SUBUID = "/etc/subuid"
SUBGID = "/etc/subgid"
_PASSWD = "/etc/passwd"
_FILE_LIMIT_BYTES = 8 << 20  # subuid(5) speaks of 100000 lines

_ID_END = (1 << 32) - 1  # the last number of 32 bits is no id
_RANGES_MAX = 340  # since Linux 4.15
_WRITTEN_LIMIT_BYTES = 4096  # what is written must be less than a page: Linux's smallest
_SIDES = ("container_id", "host_id")
_HINT = "Write CONTAINER:HOST:SIZE, for example 0:100000:65536."


@dataclass(frozen=True)
class Range:
    """size ids from container_id on are those of the host from host_id on."""

    container_id: int
    host_id: int
    size: int

    def __str__(self) -> str:
        return f"{self.container_id}:{self.host_id}:{self.size}"


@dataclass(frozen=True)
class IdMap:
    """What is mapped, in the order of container ids; the rest does not exist in the container."""

    uids: tuple[Range, ...]
    gids: tuple[Range, ...]


def parse_idmap(node: Node) -> IdMap:
    """A list of CONTAINER:HOST:SIZE for uids and gids, or a mapping with a list of uids and gids.

    Raises WrongError where the kernel would refuse it, or the container's root would not exist.
    A range with the host's own root is the author's to choose.
    """
    if not isinstance(node, Mapping):
        return IdMap(both := _parse_ranges(node), both)
    kinds = ("uids", "gids")
    for key, (line, _) in node.entries.items():
        if key not in kinds:
            raise WrongError(f"'{shown(key)}' is unknown", values.nearest(key, kinds), line)
    for kind in kinds:
        if kind not in node.entries:
            raise WrongError(f"has no {kind}", "Map both, or write one list for both.", node.line)
    uids, gids = (_parse_ranges(node.entries[kind][1]) for kind in kinds)
    return IdMap(uids, gids)


def parse_userns(node: Node) -> str:
    """The name or the uid of the user whose subordinate ids the container has."""
    words = values.text(node)
    accounts.account("Write the name or the uid of a user of this machine.", node.line, words)
    return words


def _parse_ranges(node: Node) -> tuple[Range, ...]:
    items = node.items if isinstance(node, Sequence) else [node]
    if not 1 <= len(items) <= _RANGES_MAX:
        raise WrongError(f"has {len(items)} ranges", f"Write 1 to {_RANGES_MAX}.", node.line)
    return _validated([(item.line, _parse_range(item)) for item in items], node.line)


def _parse_range(node: Node) -> Range:
    words = values.text(node)
    numbers = [number for word in words.split(":") if (number := values.number(word)) is not None]
    if len(numbers) != 3 or words.count(":") != 2:
        raise WrongError(f"'{shown(words)}' is not a range of ids", _HINT, node.line)
    return Range(*numbers)


def _validated(ranges: list[tuple[int, Range]], line: int) -> tuple[Range, ...]:
    """The ranges, each with the line to blame, in the order of their container ids.

    Raises WrongError; line is to blame for what they are together.
    """
    for place, one in ranges:
        _require_possible(place, one)
    for side in _SIDES:
        _require_apart(ranges, side)
    found = tuple(sorted((one for _, one in ranges), key=lambda one: one.container_id))
    if not found or found[0].container_id:
        hint = "Map id 0 too: it is the container's root, without whom it cannot be set up."
        raise WrongError("does not map the container's id 0", hint, line)
    _require_short(found, line)
    return found


def _require_possible(line: int, one: Range) -> None:
    if one.size < 1:
        raise WrongError(f"range {one} is empty", "A range has at least 1 id.", line)
    if max(one.container_id, one.host_id) + one.size > _ID_END:
        raise WrongError(f"range {one} goes beyond the last id", f"That is {_ID_END - 1}.", line)


def _require_apart(ranges: list[tuple[int, Range]], side: str) -> None:
    """No id is in two ranges. Raises WrongError, which blames the later line."""
    where = side.partition("_")[0]
    in_order = sorted(ranges, key=lambda entry: (getattr(entry[1], side), entry[0]))
    for (line, one), (next_line, after) in itertools.pairwise(in_order):
        if getattr(one, side) + one.size > getattr(after, side):
            raise WrongError(
                f"ranges {one} and {after} overlap: they share ids of the {where}",
                "An id can be mapped only once.",
                max(line, next_line),
            )


def _require_short(ranges: tuple[Range, ...], line: int) -> None:
    """What runc writes to /proc/PID/uid_map fits. Raises WrongError."""
    written_bytes = sum(len(str(one)) + 1 for one in ranges)
    if len(ranges) > _RANGES_MAX or written_bytes >= _WRITTEN_LIMIT_BYTES:
        problem = f"has {len(ranges)} ranges, which take {written_bytes} bytes"
        most = f"{_RANGES_MAX} ranges in {_WRITTEN_LIMIT_BYTES - 1} bytes"
        raise WrongError(problem, f"Linux takes {most}: use fewer, larger ones.", line)


def read_subordinate(name: str) -> IdMap:
    """The subordinate ids of a user of this machine, as subordinate() has them.

    Raises WrongError, also for a file that cannot be read; one that is not there is empty.
    """
    return subordinate(name, _read(SUBUID), _read(SUBGID), _read(_PASSWD))


def _read(path: str) -> bytes:
    try:
        return regular_file.read(path, _FILE_LIMIT_BYTES)[0]
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise WrongError(f"{path}: cannot be read: {error.strerror}") from error


def subordinate(name: str, subuid: bytes, subgid: bytes, passwd: bytes = b"") -> IdMap:
    """The ranges of name in subuid(5) and subgid(5) files, laid end to end from container id 0.

    The lowest host id comes first, as in podman: what it stored has the same owners here. A line
    may name the user or the uid; passwd(5) says which belong together. Raises WrongError, whose
    problem names the file and, where there is one, the line.
    """
    owners = _owners(name.encode(), passwd)
    uids, gids = (
        _laid_out(path, name, list(_lines_of(owners, path, content)))
        for path, content in ((SUBUID, subuid), (SUBGID, subgid))
    )
    return IdMap(uids, gids)


def _owners(name: bytes, passwd: bytes) -> frozenset[bytes]:
    for _, fields in accounts.entries(passwd, 4):
        if name in (fields[0], fields[2]):
            return frozenset((fields[0], fields[2]))
    return frozenset((name,))


def _lines_of(
    owners: frozenset[bytes], path: str, content: bytes
) -> Iterator[tuple[int, int, int]]:
    """Line, first id and size of each range of owners. Raises WrongError."""
    for line, text in enumerate(content.split(b"\n"), 1):
        owner, *fields = text.strip().split(b":")
        if owner not in owners:
            continue
        numbers = [values.number(field.decode("latin-1")) for field in fields]
        if len(numbers) != 2 or None in numbers:
            raise WrongError(f"{path}:{line}: is not NAME:FIRST:SIZE", "See subuid(5).")
        first, size = (number or 0 for number in numbers)
        yield line, first, size


def _laid_out(path: str, name: str, found: list[tuple[int, int, int]]) -> tuple[Range, ...]:
    """The ranges found in a file, end to end. Raises WrongError."""
    if not found:
        hint = f"Add a line there, for example {name}:100000:65536."
        raise WrongError(f"{path}: has no range of user '{name}'", hint)
    ranges = []
    container_id = 0
    for line, host_id, size in sorted(found, key=lambda entry: entry[1]):
        ranges.append((line, Range(container_id, host_id, size)))
        container_id += size
    try:
        return _validated(ranges, found[0][0])
    except WrongError as wrong:
        raise WrongError(f"{path}:{wrong.line}: {wrong.problem}", wrong.hint) from None


def to_host(ranges: tuple[Range, ...], container_id: int) -> int | None:
    """The id of the host that is container_id in the container; None if none is."""
    place = bisect_right(ranges, container_id, key=lambda one: one.container_id)
    if not place or container_id - (one := ranges[place - 1]).container_id >= one.size:
        return None
    return one.host_id + container_id - one.container_id


def covers(ranges: tuple[Range, ...], container_id: int) -> bool:
    """Whether container_id exists in the container."""
    return to_host(ranges, container_id) is not None


def owner(idmap: IdMap) -> tuple[int, int]:
    """uid and gid of the container's root on the host."""
    return idmap.uids[0].host_id, idmap.gids[0].host_id


def linux_section(idmap: IdMap) -> dict[str, list[dict[str, Any]]]:
    """The part of linux in an OCI configuration that maps the ids.

    https://github.com/opencontainers/runtime-spec/blob/v1.2.0/config-linux.md
    """
    return {"uidMappings": _oci(idmap.uids), "gidMappings": _oci(idmap.gids)}


def _oci(ranges: tuple[Range, ...]) -> list[dict[str, Any]]:
    return [
        {"containerID": one.container_id, "hostID": one.host_id, "size": one.size} for one in ranges
    ]
