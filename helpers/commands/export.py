"""Write a sleeping container to one file, for another host."""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torpor import archive, departure, record, signature
from torpor.archive import Writer
from torpor.container import Container
from torpor.departure import Sleeper
from torpor.errors import TorporError
from torpor.lock import Lock
from torpor.progress import Progress
from torpor.talk import NOTICE, WARNING, mebibytes, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the container, which sleeps")
    parser.add_argument("file", metavar="FILE", help="the archive to write; '-' for stdout")
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
    with Lock(container, wait=False), _target(options.file) as fd:
        sleeper = Sleeper(container)
        base = departure.base_image(sleeper, options.base_image)
        for name in sleeper.shared_volumes:
            say(f"{container.name}: the volume {name} is not its own, and stays here", WARNING)
        with departure.load(sleeper) as carried:
            total_bytes = departure.total_bytes(sleeper, carried)
            header = departure.header(sleeper, base, total_bytes, is_signed=bool(options.sign))
            with Progress(container.name, total_bytes) as progress:
                writer = Writer(fd, header, progress.advance)
                try:
                    departure.write(sleeper, carried, base, writer)
                    writer.finish(_signer(options.sign))
                finally:
                    writer.close()
    words = f"generation {sleeper.generation.number}, {mebibytes(total_bytes)}"
    say(f"{container.name}: exported: {words}; it sleeps on here too", NOTICE)
    return 0


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
