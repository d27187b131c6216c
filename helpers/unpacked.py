"""An archive's images in a directory for a while, to be looked at: nothing is fitted or run."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from torpor import archive, images, record, signature
from torpor.archive import Member, Reader
from torpor.container import Container
from torpor.errors import TorporError
from torpor.images import Generation, Manifest
from torpor.receiving import receive_file

_NAME = "archive"  # of a container whose archive does not say one
_DEFAULT_DIRECTORY = "/var/tmp"  # for what is large (hier(7))
_UNSIGNED = "it is not signed"


class Unpacked:
    """What an archive holds, verified by its own checksums where it is torpor's."""

    def __init__(self, reader: Reader, directory: str) -> None:
        """Reads all of it. Raises ArchiveError, TorporError, OSError."""
        said = reader.header.get("generation", "")
        self.container = Container(reader.header.get("name", _NAME))
        self.generation = Generation(
            self.container, record.number(said) if record.is_number(said) else 0, directory
        )
        self.is_verified = reader.is_ours
        self._reader = reader
        self._manifest: bytes | None = None
        self.generation.make()
        for member in reader.members():
            self._take(member)

    def _take(self, member: Member) -> None:
        generation = self.generation
        places = {
            archive.OCI: generation.config,
            archive.SPEC: "" if self._reader.is_ours else generation.config,
            archive.PLAN: generation.plan,
            archive.CGROUPS: generation.cgroups,
            archive.MOUNTS: generation.mounts,
            archive.LEASE: generation.network,
            archive.NETNS: generation.netns,
            archive.SHM: generation.shm,
            archive.STATISTICS: generation.statistics,
        }
        if os.path.dirname(member.path) == archive.IMAGES and not member.is_directory:
            receive_file(member, f"{generation.path}/{member.path}")
        elif place := places.get(member.path):
            receive_file(member, place)
        elif member.path == archive.GENERATION:
            self._manifest = member.read_all()

    def manifest(self) -> Manifest:
        """That of its generation; an empty one for podman's, which has none. Raises ImageError."""
        if self._manifest is None:
            return Manifest({}, {})
        return images.parse_manifest(self._manifest, f"{self._reader.where}: {archive.GENERATION}")

    def signer(self) -> tuple[str, str]:
        """Who signed it, as far as that can be told; else empty, and why."""
        if not self._reader.signature:
            return "", _UNSIGNED
        try:
            return signature.verify(
                self._reader.manifest, self._reader.signature, self._reader.where
            ), ""
        except TorporError as error:
            return "", error.message


@contextmanager
def unpacked(reader: Reader) -> Iterator[Unpacked]:
    """The directory is below TMPDIR, or /var/tmp, and for its owner alone."""
    above = os.environ.get("TMPDIR") or _DEFAULT_DIRECTORY
    try:
        directory = tempfile.mkdtemp(prefix="torpor-inspect-", dir=above)
    except OSError as error:
        raise TorporError(f"{above}: {error.strerror}", "name another place: TMPDIR=DIR") from error
    try:
        yield Unpacked(reader, f"{directory}/generation")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
