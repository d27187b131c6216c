"""Apply a definition's resources to its running container, without a restart.

systemd does the work: a reload runs torpor-generator again and gives running units their new
limits. Setting properties instead would leave drop-ins that hide later changes.
"""

import argparse

from torpor import cgroup, definition, dropin, hierarchy, process, resources, systemd
from torpor.container import Container
from torpor.errors import TorporError
from torpor.resources import Resources
from torpor.systemd import Unit
from torpor.talk import NOTICE, WARNING, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the container")


def run(options: argparse.Namespace) -> int:
    container = Container(options.name)
    # One that is wrong is refused before a reload could make systemd forget what it said.
    wanted = dropin.wanted(definition.load(container.name, container.definition_path))
    unit = Unit(container)
    if unit.active_state not in ("active", "reloading"):
        raise TorporError(
            f"{container.name} is not running",
            "its definition counts from its next start on, after: systemctl daemon-reload",
        )
    before = unit.properties(resources.bus_names())
    systemd.reload()
    after = unit.properties(resources.bus_names())
    _print_changes(before, after)
    _say_slice(container, unit)
    _say_overruled(container, wanted.resources, after)
    return _say_unenforced(container, wanted.resources, unit.cgroup)


def _print_changes(before: dict[str, object], after: dict[str, object]) -> None:
    rows = [
        (name, resources.words(name, before.get(name)), resources.words(name, value))
        for name, value in after.items()
    ]
    changes = [f"{name}: {old} -> {new}" for name, old, new in rows if old != new]
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


def _say_unenforced(container: Container, asked: Resources, unit_cgroup: str) -> int:
    """systemd drops what the kernel has no controller for without a word; 1 if there is any."""
    there = process.read_small(f"{cgroup.mount_point()}{unit_cgroup}/cgroup.controllers").split()
    missing = resources.without_controller(asked, there)
    for controller, names in missing.items():
        say(
            f"{container.name}: {', '.join(names)}: nothing enforces this, for there is no "
            f"{controller} controller in its cgroup; see cgroups(7)",
            WARNING,
        )
    return 1 if missing else 0
