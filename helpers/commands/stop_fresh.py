"""Stop a container for real: once, without putting it to sleep."""

import argparse
import os

from torpor import process, record
from torpor.container import Container
from torpor.errors import TorporError
from torpor.systemd import Unit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fresh",
        action="store_true",
        required=True,
        help="required: a stop that sleeps is systemctl stop torpor@NAME",
    )
    parser.add_argument("name", metavar="NAME", help="the container")


def run(options: argparse.Namespace) -> int:
    container = Container(options.name)
    unit = Unit(container)
    if unit.active_state not in ("active", "reloading"):
        raise TorporError(
            f"{container.name} is not running",
            f"to forget the memory of a sleeping container: torpor discard {container.name}",
        )
    record.make_directory(container.run_dir)
    record.replace(container.fresh_path, b"")
    status = process.spawn(["systemctl", "stop", container.unit]).wait() or 0
    if os.path.lexists(container.fresh_path):  # a stop that was refused must not mark a later one
        os.unlink(container.fresh_path)
    return status
