"""Apply a definition's resources to its running container, without a restart.

What is the unit's, systemd changes: a reload runs torpor-generator again and gives running units
their new weights. Setting properties instead would leave drop-ins that hide later changes.
"""

import argparse

from torpor import (
    cgroup,
    definition,
    hierarchy,
    limits,
    payload,
    placement,
    process,
    resources,
    systemd,
)
from torpor.container import Container
from torpor.definition import Definition
from torpor.errors import TorporError
from torpor.lock import Lock
from torpor.resources import Resources
from torpor.systemd import Unit
from torpor.talk import NOTICE, WARNING, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the container")


def run(options: argparse.Namespace) -> int:
    container = Container(options.name)
    # One that is wrong is refused before a reload could make systemd forget what it said.
    wanted = definition.load(container.name, container.definition_path)
    unit = Unit(container)
    if unit.active_state not in ("active", "reloading"):
        raise TorporError(
            f"{container.name} is not running",
            "its definition counts from its next start on, after: systemctl daemon-reload",
        )
    before = unit.properties(resources.bus_names())
    systemd.reload()
    after = unit.properties(resources.bus_names())
    changes, warnings = _limit(container, wanted, unit.cgroup)
    _print_changes(_changes(before, after) + changes)
    _say_slice(container, unit)
    of_unit = resources.of_unit(wanted.resources)
    _say_overruled(container, of_unit, after)
    warnings += _unenforced(of_unit, unit.cgroup)
    for words in warnings:
        say(f"{container.name}: {words}", WARNING)
    return 1 if warnings else 0


def _limit(
    container: Container, wanted: Definition, unit_cgroup: str
) -> tuple[list[str], list[str]]:
    """Limit the container's own cgroup; what changed there, and warnings."""
    asked = placement.limits(wanted.cgroups, wanted.resources)
    alone = wanted.bundle is None and wanted.cgroups.how != placement.SYSTEMD
    with Lock(container, wait=False):  # it must not be on its way to sleep, where it has no limits
        own = payload.cgroup_of(container, unit_cgroup)
        before = limits.shown(own)
        warnings = limits.settle(own, asked, alone=alone)
        after = limits.shown(own)
    changes = [
        f"{file}: {before[file]} -> {lines}"
        for file, lines in after.items()
        if before[file] != lines
    ]
    return changes, warnings


def _changes(before: dict[str, object], after: dict[str, object]) -> list[str]:
    rows = [
        (name, resources.words(name, before.get(name)), resources.words(name, value))
        for name, value in after.items()
    ]
    return [f"{name}: {old} -> {new}" for name, old, new in rows if old != new]


def _print_changes(changes: list[str]) -> None:
    for change in changes:
        print(change)
    if not changes:
        print("no limit changed")


def _say_slice(container: Container, unit: Unit) -> None:
    """A running process stays where it is; systemd does not move units."""
    now = unit.cgroup.rpartition("/")[0] or "/"
    if now != hierarchy.slice_path(unit.slice):
        say(
            f"{container.name}: it stays in {now}; its slice {unit.slice} counts from its next "
            "start on",
            NOTICE,
        )


def _say_overruled(container: Container, asked: Resources, found: dict[str, object]) -> None:
    for name, has, wanted in resources.overruled(asked, found):
        say(
            f"{container.name}: {name} is {has}, not {wanted}: another drop-in overrules the "
            f"definition, see: systemctl cat {container.unit}",
            NOTICE,
        )


def _unenforced(asked: Resources, unit_cgroup: str) -> list[str]:
    """systemd drops what the kernel has no controller for without a word."""
    there = process.read_small(f"{cgroup.mount_point()}{unit_cgroup}/cgroup.controllers").split()
    missing = resources.without_controller(asked, there)
    return [
        f"{', '.join(names)}: nothing enforces this, for there is no {controller} controller in "
        "its cgroup; see cgroups(7)"
        for controller, names in missing.items()
    ]
