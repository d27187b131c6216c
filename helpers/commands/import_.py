"""Make a container of an archive that torpor export wrote: it sleeps here as it did there."""

import argparse
import os

from torpor import archive, landing
from torpor.archive import Reader
from torpor.arrival import Arrival, Wishes
from torpor.container import Container
from torpor.errors import ArchiveError
from torpor.lock import Lock
from torpor.talk import NOTICE, mebibytes, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the archive; '-' for stdin")
    parser.add_argument("name", metavar="NAME", nargs="?", help="default: its name there")
    root = parser.add_mutually_exclusive_group()
    root.add_argument("--image", metavar="IMAGE", help="where the image is that it writes over")
    root.add_argument("--rootfs", metavar="DIR", help="a root file system that is here already")
    parser.add_argument(
        "--trust", action="store_true", help="whoever made it: ask for no signature"
    )
    parser.add_argument("--replace", action="store_true", help="in place of one of that name")


def run(options: argparse.Namespace) -> int:
    rootfs = os.path.abspath(options.rootfs) if options.rootfs else None
    wishes = Wishes(options.image, rootfs, options.trust)
    with archive.opened(options.file) as reader:
        container = _named(options.name, reader)
        with Lock(container, wait=False):
            landing.require_free(container, replaces=options.replace)
            arrival = Arrival(container, reader, wishes)
            landing.land(arrival, container, reader)
    by = f", signed by {arrival.signer}" if arrival.signer else ""
    say(
        f"{container.name}: imported{by}: it sleeps, {mebibytes(arrival.size_bytes)}; "
        f"wake it with: systemctl start {container.unit}",
        NOTICE,
    )
    return 0


def _named(name: str | None, reader: Reader) -> Container:
    said = name or reader.header.get("name", "")
    if not said:
        raise ArchiveError(f"{reader.where} does not say what it is of", "name it: NAME after FILE")
    return Container(said)
