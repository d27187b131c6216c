"""The drop-in that tells systemd what a definition asks of it (systemd.unit(5))."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torpor import hierarchy, placement, record, resources, slices, yaml_tree
from torpor.container import Container
from torpor.definition import Definition
from torpor.errors import RecordError
from torpor.resources import Resources
from torpor.values import WrongError
from torpor.yaml_tree import Mapping, Node

# Of two drop-ins the one whose name comes later wins: `systemctl set-property` writes 50-...conf,
# `systemctl edit` override.conf.
FILE_NAME = "10-torpor.conf"
_GENERATED = "/run/systemd/generator"
# A slice that is stopped stops the scopes in it, while the units beside them still save those.
_SLICE_TEXT = """\
# Made by torpor-generator: a container has a scope in this slice (cgroups: systemd), and falls
# asleep before it at a shutdown.

[Unit]
DefaultDependencies=no
Before=slices.target
"""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Wanted:
    """What a definition asks of systemd: names of units, and paths whose mounts it needs."""

    name: str
    path: str
    slice: str | None = None
    resources: Resources = resources.NONE
    after: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    mounts_for: tuple[str, ...] = ()
    scope_slices: tuple[str, ...] = ()  # in which the container's scope lies, beside its unit


def wanted(definition: Definition) -> Wanted:
    """What a definition asks of systemd."""
    namespaces = definition.namespaces.values()
    shared = dict.fromkeys(one.where for one in namespaces if one.how == "container")
    others = (Container(name).unit for name in shared)
    return Wanted(
        name=definition.name,
        path=definition.path,
        slice=definition.slice,
        resources=definition.resources,
        after=definition.after,
        requires=tuple(dict.fromkeys((*others, *definition.requires))),
        mounts_for=_places(definition),
        scope_slices=_scope_slices(definition.slice, definition.cgroups),
    )


def _places(definition: Definition) -> tuple[str, ...]:
    """The paths of the host without which the container cannot start."""
    trees = (definition.rootfs, definition.bundle, definition.image and definition.image.directory)
    binds = (mount.source for mount in definition.mounts if mount.kind == "bind")
    return tuple(path for path in (*trees, *binds) if path)


def _scope_slices(slice_name: str | None, cgroups: placement.Placement) -> tuple[str, ...]:
    """Those that systemd would stop at a shutdown, which it does not do to torpor.slice."""
    if cgroups.how != placement.SYSTEMD or slice_name is None:
        return ()
    kept = (placement.DEFAULT_SLICE, "system.slice")
    levels = hierarchy.slice_path(slice_name).split("/")
    return tuple(name for name in levels if name and name not in kept)


def rescued(name: str, path: str, content: bytes) -> Wanted:
    """What a definition that is wrong elsewhere asks for with a good slice: and good resources:.

    Raises DefinitionError for what is not YAML.
    """
    tree = yaml_tree.read(path, content)
    slice_name = _good(tree, "slice", slices.parse_slice)
    cgroups = _good(tree, "cgroups", placement.parse) or placement.DEFAULT
    return Wanted(
        name=name,
        path=path,
        slice=slice_name,
        scope_slices=_scope_slices(slice_name, cgroups),
        resources=_good(tree, "resources", resources.parse_resources) or resources.NONE,
    )


def _good(tree: Mapping, key: str, parse: Callable[[Node], Value]) -> Value | None:
    if key not in tree.entries:
        return None
    try:
        return parse(tree.entries[key][1])
    except WrongError:
        return None


def files(one: Wanted) -> dict[str, str]:
    """What there must be below a directory of units: path → content."""
    unit = text(one)
    found = {f"{directory(one.name)}/{FILE_NAME}": unit} if unit else {}
    return found | {f"{name}.d/{FILE_NAME}": _SLICE_TEXT for name in one.scope_slices}


def directory(name: str) -> str:
    """Its directory below a directory of units; an instance is the container's name as it is."""
    return f"{Container(name).unit}.d"


def text(one: Wanted) -> str:
    """The drop-in's content; empty when there is nothing to say."""
    unit, service = _unit_lines(one), _service_lines(one)
    if not unit and not service:
        return ""
    # With the source named, systemctl says so when the definition is newer than the drop-in.
    blocks = [_header(one), ["[Unit]", f"SourcePath={_escaped(one.path)}", *unit]]
    blocks += [["[Service]", *service]] if service else []
    return "\n\n".join("\n".join(lines) for lines in blocks) + "\n"


def is_known(one: Wanted) -> bool:
    """Whether systemd has read what the definition says now of slices, limits and order."""
    found = {f"{directory(one.name)}/{FILE_NAME}": text(one)} | files(one)
    return all(
        _effects(_read(f"{_GENERATED}/{path}")) == _effects(content)
        for path, content in found.items()
    )


def _effects(content: str) -> list[str]:
    """The lines of a drop-in that change what a unit does."""
    passive = ("#", "[", "SourcePath=", "RequiresMountsFor=")
    return [line for line in content.split("\n") if line and not line.startswith(passive)]


def _read(path: str) -> str:
    """Empty where there is no such file."""
    try:
        return (record.read_bytes(path) or b"").decode("utf-8", "replace")
    except (OSError, RecordError):
        return ""


def _header(one: Wanted) -> list[str]:
    unit = Container(one.name).unit
    return [
        f"# Made by torpor-generator from {one.path}.",
        f"# Change it there; systemctl edit {unit} overrules it.",
    ]


def _unit_lines(one: Wanted) -> list[str]:
    # What must be there must be there before: systemd itself takes no order from a requirement.
    ordered = dict.fromkeys((*one.requires, *one.after))
    return [
        *(f"RequiresMountsFor={_quoted(path)}" for path in _expressible(one.mounts_for)),
        *(f"Requires={name}" for name in one.requires),
        *(f"After={name}" for name in ordered),
    ]


def _service_lines(one: Wanted) -> list[str]:
    where = [f"Slice={one.slice}"] if one.slice else []
    return where + resources.unit_lines(resources.of_unit(one.resources))


def _expressible(paths: tuple[str, ...]) -> list[str]:
    """Each path once, without those that no line of a unit file can hold."""
    return [path for path in dict.fromkeys(paths) if not set(path) & set("\n\r")]


def _quoted(path: str) -> str:
    """A path as one of several words (systemd.syntax(7), Quoting)."""
    escaped = _escaped(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if set(path) & set(" \t'\"\\") else escaped


def _escaped(path: str) -> str:
    """A path whose % is no specifier (systemd.unit(5))."""
    return path.replace("%", "%%")
