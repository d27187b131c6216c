"""Where a container's cgroup is, and who makes it: the definition's `cgroups:`."""

from dataclasses import dataclass

from torpor import hierarchy, preparation, resources, values
from torpor.cgroup import PAYLOAD, SUPERVISOR
from torpor.resources import Resources
from torpor.values import WrongError
from torpor.yaml_tree import Node, shown

UNIT = "unit"
SYSTEMD = "systemd"
CGROUPFS = "cgroupfs"
NONE = "none"
_UNIT_SUFFIXES = (".slice", ".scope", ".service")
DEFAULT_SLICE = "torpor.slice"
PREFIX = "torpor"


@dataclass(frozen=True)
class Placement:
    """how is one of the four above; parent is a path below the cgroup mount, for cgroupfs only."""

    how: str = UNIT
    parent: str = ""


DEFAULT = Placement()


def parse(node: Node) -> Placement:
    """unit, systemd, none or cgroupfs:/PARENT. Raises WrongError."""
    how, colon, parent = (words := values.text(node)).partition(":")
    if how == CGROUPFS and colon:
        found = values.absolute(parent, node.line)
        if found == "/":
            problem = "the root of all cgroups is no parent for a container"
            raise WrongError(problem, "Name a cgroup below it.", node.line)
        return Placement(CGROUPFS, found)
    if colon or how not in (UNIT, SYSTEMD, NONE):
        hint = "Write unit, systemd, none or cgroupfs:/PARENT."
        raise WrongError(f"'{shown(words)}' is no place for a cgroup", hint, node.line)
    return Placement(how)


def limits(wanted: Placement, asked: Resources) -> tuple[tuple[str, str], ...]:
    """What holds for the container's processes alone; a cgroup of systemd's is not ours."""
    return () if wanted.how == SYSTEMD else resources.of_payload(asked)


def expected(slice_name: str | None, unit: str) -> str:
    """The payload's cgroup in a unit that systemd puts where the definition says."""
    return f"{hierarchy.slice_path(slice_name or DEFAULT_SLICE).rstrip('/')}/{unit}/{PAYLOAD}"


@dataclass(frozen=True)
class Place:
    """cgroups_path is OCI's linux.cgroupsPath; plan what the helpers need to know of it."""

    cgroups_path: str
    plan: tuple[tuple[str, str], ...] = ()


def place(wanted: Placement, name: str, slice_name: str | None, unit_payload: str) -> Place:
    """Where the container's cgroup will be; unit_payload is its place in the unit's cgroup.

    Elsewhere its last component is the container's own name: what is in it is killed. Raises
    WrongError for a name that may be somebody else's there.
    """
    if wanted.how == UNIT:
        return Place(unit_payload)
    if wanted.how == SYSTEMD:
        # SLICE:PREFIX:NAME becomes PREFIX-NAME.scope in SLICE (docs/systemd.md of runc).
        parent = slice_name or DEFAULT_SLICE
        cgroup = f"{hierarchy.slice_path(parent).rstrip('/')}/{PREFIX}-{name}.scope"
        plan = ((preparation.CGROUP, cgroup), (preparation.SYSTEMD, "yes"))
        return Place(f"{parent}:{PREFIX}:{name}", plan)
    if wanted.how == CGROUPFS:
        if name.endswith(_UNIT_SUFFIXES):
            hint = "Write unit, or rename the container."
            raise WrongError(f"{PREFIX}-{name} there may be a unit of systemd's", hint)
        cgroup = f"{wanted.parent}/{PREFIX}-{name}"
        return Place(cgroup, ((preparation.CGROUP, preparation.value(cgroup)),))
    if name == SUPERVISOR:
        raise WrongError("a container of this name cannot be", "Write unit, or rename it.")
    # Without a path runc takes the container's name, beside the cgroup that it is called in.
    return Place("", ((preparation.CGROUP_IN_UNIT, name),))
