"""The keys of a definition, and how the text of each becomes a value."""

import functools
from collections.abc import Callable, Iterator
from collections.abc import Mapping as MappingType
from typing import Any

from torpor import (
    accounts,
    capabilities,
    devices,
    idmap,
    mount_list,
    namespaces,
    network,
    oci_layout,
    ordering,
    placement,
    resources,
    rlimits,
    seccomp,
    selinux,
    signals,
    slices,
    systemd_mode,
    values,
    volumes,
)
from torpor.errors import DefinitionError
from torpor.values import WrongError
from torpor.yaml_tree import Mapping, Node, Scalar, Sequence, shown

CHECKPOINT_OCCASIONS = ("stop", "shutdown", "restart")
RESTORE_FAILURE_POLICIES = ("start-fresh", "fail")
CRASH_POLICIES = ("fresh", "rollback")
NOTIFIERS = ("runtime", "container")
UNLIMITED = "unlimited"
TCP_KEEP, TCP_CLOSE = "keep", "close"
_HOSTNAME_MAX_BYTES = 64  # HOST_NAME_MAX of Linux, uname(2)
_SIGNAL_MAX = 64  # signal(7)
_SIGNAL_NAME_MAX = 16


def _command(node: Node) -> tuple[str, ...]:
    if isinstance(node, Mapping):
        raise WrongError("is a mapping, but must be a list or one line", line=node.line)
    words = (
        tuple(map(values.text, node.items))
        if isinstance(node, Sequence)
        else _split(values.text(node))
    )
    if not words or not words[0]:
        raise WrongError(
            "names no program",
            "The first word is the program: command: [/usr/bin/program, argument]",
        )
    return words


def _split(text: str) -> tuple[str, ...]:
    import shlex

    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        hint = "Write the command as a list: command: [program, argument]"
        raise WrongError(f"cannot be split into words: {error}", hint) from error


def _env(node: Node) -> tuple[tuple[str, str], ...]:
    if isinstance(node, Scalar):
        raise WrongError("must be a mapping, or a list of NAME=VALUE", line=node.line)
    pairs = _env_mapping(node) if isinstance(node, Mapping) else _env_list(node)
    env: dict[str, str] = {}
    for line, name, value in pairs:
        if not name or "=" in name:
            raise WrongError(f"'{shown(name)}' cannot be the name of a variable", line=line)
        if name in env:
            raise WrongError(f"variable '{shown(name)}' is given twice", "Remove one.", line)
        env[name] = value
    return tuple(env.items())


def _env_mapping(node: Mapping) -> Iterator[tuple[int, str, str]]:
    for name, (line, value) in node.entries.items():
        if not isinstance(value, Scalar):
            raise WrongError(f"variable '{shown(name)}' is not a single value", line=line)
        yield line, name, value.text


def _env_list(node: Sequence) -> Iterator[tuple[int, str, str]]:
    for item in node.items:
        if not isinstance(item, Scalar) or "=" not in item.text:
            what = f"'{shown(item.text)}'" if isinstance(item, Scalar) else "an item"
            raise WrongError(f"{what} is not NAME=VALUE", line=item.line)
        name, _, value = item.text.partition("=")
        yield item.line, name, value


def _hostname(node: Node) -> str:
    text = values.text(node)
    size_bytes = len(text.encode())
    if not 1 <= size_bytes <= _HOSTNAME_MAX_BYTES:
        raise WrongError(
            f"is {size_bytes} bytes long", f"A host name has 1 to {_HOSTNAME_MAX_BYTES} bytes."
        )
    if "/" in text or any(char.isspace() or not char.isprintable() for char in text):
        raise WrongError(f"'{shown(text)}' holds a space, a slash or a control character")
    return text


def _paths(node: Node) -> tuple[str, ...]:
    found = values.list_of(values.path, node)
    if "/" in found:
        raise WrongError("holds /, which would be all", "Name what is below it.", node.line)
    return found


def _annotations(node: Node) -> tuple[tuple[str, str], ...]:
    found = {}
    for name, (line, value) in values.pairs(node).items():
        if not name:
            raise WrongError("an annotation has no name", line=line)
        if not isinstance(value, Scalar):
            raise WrongError(f"'{shown(name)}' is not a single value", line=line)
        found[name] = value.text
    return tuple(sorted(found.items()))


def _signal(node: Node) -> int:
    text = values.text(node)
    is_short = text.isascii() and len(text) <= _SIGNAL_NAME_MAX
    number = signals.parse(text) if is_short else None
    if number is None:
        hint = f"Write SIGTERM or TERM, RTMIN+N, RTMAX-N, or a number from 1 to {_SIGNAL_MAX}."
        raise WrongError(f"'{shown(text)}' is not a signal", hint)
    return number


def _occasions(node: Node) -> frozenset[str]:
    one = functools.partial(values.choice, CHECKPOINT_OCCASIONS)
    if isinstance(node, Sequence):
        return frozenset(map(one, node.items))
    return frozenset({one(node)})


def _size_or_unlimited(node: Node) -> int:
    """Bytes; 0 is no limit."""
    return 0 if values.text(node) == UNLIMITED else values.size_bytes(node)


SCHEMA: MappingType[str, Callable[[Node], object]] = {
    "bundle": values.tree,
    "rootfs": values.tree,
    "image": oci_layout.parse_image,
    "read-only": values.boolean,
    "command": _command,
    "env": _env,
    "cwd": values.path,
    "hostname": _hostname,
    "user": accounts.parse_user,
    "groups": accounts.parse_groups,
    "umask": rlimits.umask,
    "rlimits": rlimits.parse,
    "capabilities": capabilities.parse,
    "devices": devices.parse,
    "seccomp": seccomp.parse,
    "selinux": selinux.parse,
    "masked-paths": _paths,
    "readonly-paths": _paths,
    "shm-size": values.size_bytes,
    "mounts": mount_list.parse,
    "volumes": volumes.parse_volumes,
    "namespaces": namespaces.parse,
    "network": network.parse,
    "idmap": idmap.parse_idmap,
    "userns": idmap.parse_userns,
    "annotations": _annotations,
    "stop-signal": _signal,
    "systemd": functools.partial(values.choice, systemd_mode.MODES),
    "notify": functools.partial(values.choice, NOTIFIERS),
    "register": values.boolean,
    "cgroups": placement.parse,
    "slice": slices.parse_slice,
    "resources": resources.parse_resources,
    "after": ordering.parse_units,
    "requires": ordering.parse_units,
    "checkpoint.on": _occasions,
    "checkpoint.restore-failure": functools.partial(values.choice, RESTORE_FAILURE_POLICIES),
    "checkpoint.keep": values.count,
    "checkpoint.keep-logs": values.boolean,
    "checkpoint.on-crash": functools.partial(values.choice, CRASH_POLICIES),
    "checkpoint.snapshots.keep": values.count,
    "checkpoint.snapshots.max-size": _size_or_unlimited,
    "checkpoint.tcp": functools.partial(values.choice, (TCP_KEEP, TCP_CLOSE)),
}
_SECTIONS = frozenset(key.rpartition(".")[0] for key in SCHEMA) - {""}


def read(path: str, tree: Mapping) -> tuple[dict[str, Any], dict[str, int]]:
    """The typed values and the lines of tree by dotted key (checkpoint.on); path is for messages.

    Raises DefinitionError for the first key that is unknown or has a wrong value.
    """
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    _read_section(path, tree, "", values, lines)
    return values, lines


def _read_section(
    path: str, section: Mapping, prefix: str, values: dict[str, Any], lines: dict[str, int]
) -> None:
    for word, (line, node) in section.entries.items():
        key = prefix + word
        lines[key] = line
        try:
            if key in _SECTIONS:
                _read_section(path, _as_section(node), key + ".", values, lines)
            elif "." not in word and key in SCHEMA:
                values[key] = SCHEMA[key](node)
            else:
                raise _unknown(prefix, word)
        except WrongError as wrong:
            where = f"{path}:{wrong.line or line}"
            raise DefinitionError(
                f"{where}: key '{shown(key)}': {wrong.problem}", wrong.hint
            ) from None


def _as_section(node: Node) -> Mapping:
    if isinstance(node, Mapping):
        return node
    if isinstance(node, Scalar) and node.absent:
        raise WrongError("has no value", "Remove the key, or indent its keys below it.")
    raise WrongError("must be a mapping", "Indent its keys below it.", node.line)


def _unknown(prefix: str, word: str) -> WrongError:
    here = [key.removeprefix(prefix) for key in (*SCHEMA, *_SECTIONS) if key.startswith(prefix)]
    for section, _, leaf in (key.rpartition(".") for key in SCHEMA):
        if leaf == word.rpartition(".")[2]:
            place = f"indented below '{section}:'" if section else "without indentation"
            return WrongError("is unknown here", f"Write '{leaf}:' {place}.")
    return WrongError(
        "is unknown", values.nearest(word, sorted(key for key in here if "." not in key))
    )
