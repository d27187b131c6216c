"""Write the definition of a new container, and check it."""

import argparse
import os
import shutil

from torpor import record, rendering
from torpor.container import Container
from torpor.errors import TorporError
from torpor.new_definition import Entry, text
from torpor.talk import NOTICE, say, warn

_ROOTS = "--from oci:DIR[:TAG]|DIR | --rootfs DIR | --bundle DIR | --podman CONTAINER"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="what it is to be called")
    root = parser.add_mutually_exclusive_group(required=True)
    root.add_argument(
        "--from",
        dest="image",
        metavar="oci:DIR[:TAG]|DIR",
        help="the image that it begins with, and writes over",
    )
    root.add_argument("--rootfs", metavar="DIR", help="a root file system of its own")
    root.add_argument("--bundle", metavar="DIR", help="an OCI bundle, run as it is")
    root.add_argument("--podman", metavar="CONTAINER", help="one of podman's, as far as it can be")
    # argparse takes no list of words behind options: see commands.torpor
    parser.usage = f"torpor new NAME ({_ROOTS}) [-- COMMAND...]"
    parser.epilog = "COMMAND is what it runs, if its image or bundle does not say that."
    parser.set_defaults(command=[])


def run(options: argparse.Namespace) -> int:
    container = Container(options.name)
    if os.path.lexists(container.definition_path):
        raise TorporError(
            f"{container.definition_path} is there already",
            f"edit that, or choose another name; check it with: torpor check {container.name}",
        )
    if options.podman:
        _of_podman(container, options.podman, options.command)
    else:
        _define(container, [*_root(options), *_program(options.command)], [])
    say(f"{container.name}: {container.definition_path} is written, and right; go on:", NOTICE)
    print(f"systemctl start {container.unit}\nsystemctl stop {container.unit}")
    return 0


def _root(options: argparse.Namespace) -> list[Entry]:
    if options.image:
        kind, separator, rest = options.image.partition(":")
        is_layout = bool(separator) and kind == "oci"
        place = f"oci:{os.path.abspath(rest)}" if is_layout else os.path.abspath(options.image)
        return [Entry("image", place, "Shared: what it writes is kept apart from it.")]
    if options.rootfs:
        return [Entry("rootfs", os.path.abspath(options.rootfs))]
    return [Entry("bundle", os.path.abspath(options.bundle), "What is not said here, it says.")]


def _program(command: list[str]) -> list[Entry]:
    return [Entry("command", command)] if command else []


def _of_podman(container: Container, name: str, command: list[str]) -> None:
    from torpor import podman

    known = podman.Known(name)
    place = podman.save_image(known.image, container.name)
    entries = known.entries(f"oci:{place}")
    if command:
        entries = [one for one in entries if one.key != "command"] + _program(command)
    notes = [
        f"It was podman's {name}. What that wrote over its image stays there: podman diff {name}",
        *known.notes,
    ]
    try:
        _define(container, entries, notes)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _define(container: Container, entries: list[Entry], notes: list[str]) -> None:
    """Write it, if it is right: what is wrong leaves nothing behind. Raises TorporError."""
    path = container.definition_path
    record.make_directory(os.path.dirname(path), 0o755)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with open(fd, "wb") as file:
            file.write(text(container.name, entries, notes))
        _, warnings = rendering.check(container)
    except BaseException:
        os.unlink(path)
        raise
    warn(container.name, warnings)
