"""Show what a container and its unit have said: journalctl(1), for its unit."""

import argparse
import os

from torpor.commands.status import require_known
from torpor.container import Container


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the container")
    parser.add_argument(
        "options", metavar="OPTION", nargs=argparse.REMAINDER, help="what journalctl takes"
    )


def run(options: argparse.Namespace) -> int:
    container = Container(options.name)
    require_known(container)
    os.execvp("journalctl", ["journalctl", f"--unit={container.unit}", *options.options])
