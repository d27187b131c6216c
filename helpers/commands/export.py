"""Write a container to one file, for another host: asleep, or a moment of it."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torpor import archive, departure, record, signature, snapshots, taking
from torpor.archive import Writer
from torpor.container import Container
from torpor.departure import Kept, Sleeper, Traveller
from torpor.errors import BusyError, TorporError
from torpor.lock import Lock
from torpor.progress import Progress
from torpor.snapshots import Snapshot
from torpor.talk import NOTICE, WARNING, mebibytes, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the container")
    parser.add_argument("file", metavar="FILE", help="the archive to write; '-' for stdout")
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


def run(options: argparse.Namespace) -> int:
    container = Container(options.name)
    if options.sign:
        signature.require_signer(options.sign)
    if options.running:
        return _export_running(container, options)
    with _target(options.file) as fd:
        if options.snapshot is not None:
            # Without the lock, for which a stop would wait.
            _export(Kept(container, options.snapshot), fd, options)
        else:
            with Lock(container, wait=False):
                _export(Sleeper(container), fd, options)
    return 0


def _export_running(container: Container, options: argparse.Namespace) -> int:
    """By a snapshot that is there for this long."""
    with _target(options.file) as fd:
        status, number = taking.take(container, sys.stderr, forgets=False)
        if status:
            sys.exit(status)  # what went wrong was said
        try:
            _export(Kept(container, number), fd, options)
        finally:
            _drop(container, number)
    return 0


def _drop(container: Container, number: int) -> None:
    """Remove it; where its container starts or stops just now, the next start does the rest."""
    snapshot = Snapshot(container, number)
    record.remove_durably(snapshot.manifest)
    try:
        with Lock(container, wait=False):
            snapshots.sweep(container)
    except BusyError:
        pass


def _export(traveller: Traveller, fd: int, options: argparse.Namespace) -> None:
    container = traveller.container
    base = departure.base_image(traveller, options.base_image)
    for name in traveller.shared_volumes:
        say(f"{container.name}: the volume {name} is not its own, and stays here", WARNING)
    with departure.load(traveller) as carried:
        total_bytes = departure.total_bytes(traveller, carried)
        header = departure.header(traveller, base, total_bytes, is_signed=bool(options.sign))
        with Progress(container.name, total_bytes) as progress:
            writer = Writer(fd, header, progress.advance)
            try:
                departure.write(traveller, carried, base, writer)
                writer.finish(_signer(options.sign))
            finally:
                writer.close()
    what = "generation" if isinstance(traveller, Sleeper) else "snapshot"
    goes_on = "it sleeps on here too" if isinstance(traveller, Sleeper) else "it goes on here"
    words = f"{what} {traveller.generation.number}, {mebibytes(total_bytes)}"
    say(f"{container.name}: exported: {words}; {goes_on}", NOTICE)


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
