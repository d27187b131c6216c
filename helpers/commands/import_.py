"""Make a container of an archive that torpor export wrote: it sleeps here as it did there."""

import argparse
import os

from torpor import archive, atomic_directory, networking, record
from torpor.archive import Reader
from torpor.arrival import Arrival, Wishes
from torpor.container import Container
from torpor.errors import ArchiveError, TorporError
from torpor.lock import Lock
from torpor.progress import Progress
from torpor.systemd import Unit
from torpor.talk import NOTICE, mebibytes, say, warn


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
            _require_free(container, replaces=options.replace)
            _settle(Arrival(container, reader, wishes), container, reader)
    return 0


def _named(name: str | None, reader: Reader) -> Container:
    said = name or reader.header.get("name", "")
    if not said:
        raise ArchiveError(f"{reader.where} does not say what it is of", "name it: NAME after FILE")
    return Container(said)


def _require_free(container: Container, *, replaces: bool) -> None:
    places = (container.definition_path, container.state_dir)
    there = next(filter(os.path.lexists, places), None)
    if there is None:
        return
    if not replaces:
        raise TorporError(
            f"there is a container {container.name} already: {there}",
            "import it under another name: NAME after FILE; or in its place: --replace",
        )
    if Unit(container).active_state not in ("inactive", "failed"):
        raise TorporError(
            f"{container.name} is running", f"stop it first: torpor stop --fresh {container.name}"
        )


def _settle(arrival: Arrival, container: Container, reader: Reader) -> None:
    with Progress(container.name, _size_bytes(reader)) as progress:
        reader.progress = progress.advance
        with _Place(container) as place:
            atomic_directory.replace(container.state_dir, lambda new: place.take(arrival, new))
            place.define(arrival.text)
    warn(container.name, [*arrival.warnings, *networking.leave(container)])
    by = f", signed by {arrival.signer}" if arrival.signer else ""
    say(
        f"{container.name}: imported{by}: it sleeps, {mebibytes(arrival.size_bytes)}; "
        f"wake it with: systemctl start {container.unit}",
        NOTICE,
    )


def _size_bytes(reader: Reader) -> int:
    said = reader.header.get("size", "")
    return record.number(said) if record.is_number(said) else 0


class _Place:
    """The definition's file, which is changed beside the state directory.

    Neither may meet one of another container: a start would find that the definition changed, and
    forget the memory. So there is none while the directories change.
    """

    def __init__(self, container: Container) -> None:
        self._path = container.definition_path
        self._aside = f"{self._path}.old"
        self._state_dir = container.state_dir
        self._inode = 0

    def take(self, arrival: Arrival, new: str) -> None:
        arrival.fill(new)
        self._inode = os.stat(new).st_ino
        if os.path.lexists(self._path):
            os.rename(self._path, self._aside)
            record.sync_directory(os.path.dirname(self._path))

    def define(self, text: bytes) -> None:
        record.make_directory(os.path.dirname(self._path), 0o755)
        record.write_durably(self._path, text, "definition")
        record.remove_durably(self._aside)

    def __enter__(self) -> "_Place":
        return self

    def __exit__(self, *_: object) -> None:
        """Where the state directory is the old one after all, so is its definition."""
        if os.path.lexists(self._aside) and not self._has_changed():
            os.rename(self._aside, self._path)

    def _has_changed(self) -> bool:
        try:
            return os.stat(self._state_dir).st_ino == self._inode
        except FileNotFoundError:
            return False
