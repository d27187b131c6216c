"""Show what containers take of the host: systemd-cgtop(1), for their slice or one of them."""

import argparse
import os

from torpor.commands.status import require_known
from torpor.container import Container
from torpor.errors import TorporError
from torpor.systemd import Unit

_ALL = "torpor.slice"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="one container; default: all")
    parser.add_argument(
        "options", metavar="OPTION", nargs=argparse.REMAINDER, help="what systemd-cgtop takes"
    )


def run(options: argparse.Namespace) -> int:
    where = _ALL if options.name is None else _cgroup(Container(options.name))
    os.execvp("systemd-cgtop", ["systemd-cgtop", *options.options, where])


def _cgroup(container: Container) -> str:
    require_known(container)
    if found := Unit(container).cgroup:
        return found
    raise TorporError(
        f"{container.name} does not run", f"start it: systemctl start {container.unit}"
    )
