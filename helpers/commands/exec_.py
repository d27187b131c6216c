"""Run a program in a running container: runc exec, for its name."""

import argparse
import os

from torpor.commands.status import require_known
from torpor.container import Container
from torpor.errors import TorporError
from torpor.systemd import Unit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-u", "--user", metavar="UID[:GID]", help="who runs it; default: root")
    parser.add_argument("-w", "--workdir", metavar="DIR", help="where it begins")
    parser.add_argument(
        "-T", "--no-tty", action="store_true", help="no terminal, as if here were none"
    )
    parser.add_argument("name", metavar="NAME", help="the container")
    parser.add_argument("command", metavar="COMMAND", help="the program")
    parser.add_argument("arguments", metavar="ARG", nargs=argparse.REMAINDER, help="its arguments")


def run(options: argparse.Namespace) -> int:
    container = Container(options.name)
    require_known(container)
    if not Unit(container).runs:
        raise TorporError(
            f"{container.name} does not run", f"start it: systemctl start {container.unit}"
        )
    is_terminal = os.isatty(0) and os.isatty(1)
    words = [
        *(["--tty"] if is_terminal and not options.no_tty else []),
        *(["--user", options.user] if options.user else []),
        *(["--cwd", options.workdir] if options.workdir else []),
    ]
    argv = ["runc", "exec", *words, container.name, options.command, *options.arguments]
    os.execvp(argv[0], argv)
