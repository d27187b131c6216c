"""A container's namespaces: its own, the host's, one by path, or another container's.

What can be put to sleep with each kind was tried with runc 1.1 and CRIU 4.2; `obstacle` says what
cannot.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torpor import values
from torpor.container import valid_name
from torpor.values import WrongError
from torpor.yaml_tree import Node, shown

# The definition's word for each kind → OCI's (config-linux.md, "Namespaces").
KINDS = {
    "ipc": "ipc",
    "mnt": "mount",
    "net": "network",
    "pid": "pid",
    "user": "user",
    "uts": "uts",
    "cgroup": "cgroup",
}
OWN_BY_DEFAULT = ("pid", "net", "ipc", "uts", "mnt", "cgroup")
_ALONE = ("own", "host")
_HINT = "Write own, host, path:/FILE or container:NAME."


@dataclass(frozen=True)
class Namespace:
    """Where one namespace comes from: how is own, host, path or container.

    where is the path or the other container's name, empty for own and host.
    """

    how: str
    where: str = ""


def parse(node: Node) -> Mapping[str, Namespace]:
    """The mapping `namespaces:` of a definition."""
    found = {}
    for kind, (line, value) in values.pairs(node).items():
        if kind not in KINDS:
            raise WrongError(f"'{shown(kind)}' is no namespace", values.nearest(kind, KINDS), line)
        found[kind] = _namespace(kind, value)
    return found


def network(entries: list[dict[str, Any]]) -> Namespace:
    """Whose network the entries of a config's linux.namespaces give."""
    found = [entry for entry in entries if entry.get("type") == KINDS["net"]]
    if not found:
        return Namespace("host")
    path = found[0].get("path")
    return Namespace("path", path) if path else Namespace("own")


def _namespace(kind: str, node: Node) -> Namespace:
    how, colon, where = (words := values.text(node)).partition(":")
    if kind == "mnt" and words != "own":
        # runc prepares the rootfs in the namespace that it joined: the host gets its mounts and
        # keeps them, and in another container's the rootfs is not even there.
        raise WrongError(
            "mnt can only be own: runc mounts the root file system in it",
            "Share directories with mounts: instead.",
            node.line,
        )
    if not colon and how in _ALONE:
        return Namespace(how)
    if how == "path":
        return Namespace("path", values.absolute(where, node.line))
    if how == "container" and valid_name(where):
        return Namespace("container", where)
    raise WrongError(f"{kind}: '{shown(words)}' is no place of a namespace", _HINT, node.line)


def default() -> list[dict[str, Any]]:
    """OCI's linux.namespaces of a container that has all of its own, but for a user namespace."""
    return [{"type": KINDS[kind]} for kind in OWN_BY_DEFAULT]


def section(
    base: list[Any], wanted: Mapping[str, Namespace], paths: Mapping[str, str]
) -> list[Any]:
    """linux.namespaces as base, changed as wanted; paths are those of other containers' by kind.

    The order of base stays, since runc's messages and a reader's eye follow it.
    """
    entries = {entry.get("type"): entry for entry in base}
    for kind, namespace in wanted.items():
        oci = KINDS[kind]
        if namespace.how == "host":
            entries.pop(oci, None)
        elif namespace.how == "own":
            entries[oci] = {"type": oci}
        else:
            path = namespace.where if namespace.how == "path" else paths[kind]
            entries[oci] = {"type": oci, "path": path}
    return list(entries.values())


def others(wanted: Mapping[str, Namespace]) -> dict[str, str]:
    """The namespaces of other containers: kind → the container's name."""
    return {kind: one.where for kind, one in wanted.items() if one.how == "container"}


def paths(entries: list[Any]) -> list[tuple[str, str]]:
    """OCI's type and the path of each of these linux.namespaces that is joined by path."""
    found = ((entry.get("type"), entry.get("path")) for entry in entries)
    return [(kind, path) for kind, path in found if kind and path and isinstance(path, str)]


def obstacle(entries: list[Any]) -> str:
    """Why a container with these linux.namespaces could not wake, empty when it could."""
    joined = {entry.get("type") for entry in entries if entry.get("path")}
    if "cgroup" in joined:
        return "it joins a cgroup namespace by path, which runc cannot restore"
    if "user" in joined:
        return "it joins a user namespace by path, which CRIU cannot restore"
    return ""
