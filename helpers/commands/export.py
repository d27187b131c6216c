"""Write a container to one file, for another host: asleep, or a moment of it."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torpor import (
    archive,
    arrival,
    checkpoint_image,
    departure,
    record,
    signature,
    snapshots,
    taking,
)
from torpor.container import Container
from torpor.departure import Base, Kept, Sleeper, Traveller
from torpor.errors import BusyError, TorporError
from torpor.lock import Lock
from torpor.snapshots import Snapshot
from torpor.talk import NOTICE, WARNING, mebibytes, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the container")
    parser.add_argument(
        "file", metavar="FILE", nargs="?", help="the archive to write; '-' for stdout"
    )
    parser.add_argument(
        "--image", metavar="oci:DIR[:TAG]", help="an image of an OCI layout to write instead"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--running", action="store_true", help="a moment of a container that goes on"
    )
    which.add_argument("--snapshot", metavar="N", type=int, help="the snapshot of this number")
    parser.add_argument(
        "--base-image",
        metavar="REF[=ID]",
        help="the image, as podman knows it, that its root file system began with",
    )
    parser.add_argument("--sign", metavar="KEY", help="sign it with this key of ssh-keygen")


Fill = Callable[[int], None]  # writes the archive to a descriptor
Deliver = Callable[[Traveller, Base, Fill], None]


def run(options: argparse.Namespace) -> int:
    container = Container(options.name)
    if options.sign:
        signature.require_signer(options.sign)
    with _destination(options) as deliver:
        if options.running:
            _export_running(container, options, deliver)
        elif options.snapshot is not None:
            # Without the lock, for which a stop would wait.
            _export(Kept(container, options.snapshot), options, deliver)
        else:
            with Lock(container, wait=False):
                _export(Sleeper(container), options, deliver)
    return 0


def _export_running(container: Container, options: argparse.Namespace, deliver: Deliver) -> None:
    """By a snapshot that is there for this long."""
    status, number = taking.take(container, sys.stderr, forgets=False)
    if status:
        sys.exit(status)  # what went wrong was said
    try:
        _export(Kept(container, number), options, deliver)
    finally:
        _drop(container, number)


def _drop(container: Container, number: int) -> None:
    """Remove it; where its container starts or stops just now, the next start does the rest."""
    snapshot = Snapshot(container, number)
    record.remove_durably(snapshot.manifest)
    try:
        with Lock(container, wait=False):
            snapshots.sweep(container)
    except BusyError:
        pass


def _export(traveller: Traveller, options: argparse.Namespace, deliver: Deliver) -> None:
    container = traveller.container
    if traveller.generation.rounds():
        raise TorporError(
            f"the memory of {container.name} is in several parts, made for a move that failed",
            f"wake it and put it to sleep again: systemctl start {container.unit}",
        )
    base = departure.base_image(traveller, options.base_image)
    for name in traveller.shared_volumes:
        say(f"{container.name}: the volume {name} is not its own, and stays here", WARNING)
    with departure.load(traveller) as carried:
        total_bytes = departure.total_bytes(traveller, carried)

        def fill(fd: int) -> None:
            compressed = not options.image  # which umoci compresses itself
            sign = _signer(options.sign)
            departure.pack(traveller, carried, base, fd, sign=sign, compressed=compressed)

        deliver(traveller, base, fill)
    what = "generation" if isinstance(traveller, Sleeper) else "snapshot"
    goes_on = "it sleeps on here too" if isinstance(traveller, Sleeper) else "it goes on here"
    words = f"{what} {traveller.generation.number}, {mebibytes(total_bytes)}"
    say(f"{container.name}: exported: {words}; {goes_on}", NOTICE)


@contextmanager
def _destination(options: argparse.Namespace) -> Iterator[Deliver]:
    """Where it goes, which is known to be possible before a container is made to stand still."""
    if bool(options.file) == bool(options.image):
        raise TorporError("say where to, in one way", "name a FILE, or --image oci:DIR:TAG")
    if not options.image:
        with _target(options.file) as fd:
            yield lambda traveller, base, fill: fill(fd)
        return
    image = arrival.image_of(options.image)
    if not image.is_layout:
        raise TorporError(f"--image: {image} is a directory", "name a layout: --image oci:DIR:TAG")

    def deliver(traveller: Traveller, base: Base, fill: Fill) -> None:
        notes = checkpoint_image.annotations(
            traveller.container.name, base, traveller.manifest.facts
        )
        checkpoint_image.write(image, notes, fill)

    yield deliver


def _signer(key: str | None) -> Callable[[bytes], bytes] | None:
    return (lambda manifest: signature.sign(key, manifest)) if key else None


@contextmanager
def _target(path: str) -> Iterator[int]:
    """A descriptor to write to; the file is there, durably, only when all went well."""
    if path == archive.STANDARD:
        if os.isatty(1):
            raise TorporError(
                "an archive is nothing for a terminal", "say: torpor export ... >FILE"
            )
        yield 1
        return
    directory, name = os.path.split(os.path.abspath(path))
    if os.path.isdir(path):
        raise TorporError(f"{path} is a directory", "name a file in it")
    new = f"{directory}/.{name}-{os.urandom(4).hex()}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield fd
        os.fsync(fd)
        os.rename(new, f"{directory}/{name}")
    except BaseException:
        os.unlink(new)
        raise
    finally:
        os.close(fd)
    record.sync_directory(directory)
