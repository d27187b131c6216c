"""A sleeping container as one file: podman's checkpoint archive, and what torpor needs beyond it.

The names are those of checkpointctl's lib/metadata.go and podman's container_internal_common.go.
torpor's own entries are below torpor/: the header comes first, so that an archive that is not for
here is refused before the rest was sent; the manifest, with the checksums of all other entries,
comes last, so that nothing has to be read twice to be sent; after it its signature.
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torpor import process, record
from torpor.errors import ArchiveError, NewerFormatError, RecordError, TorporError
from torpor.tarball import CHUNK_BYTES, Entry, Tarball

CONFIG = "config.dump"
SPEC = "spec.dump"
NETWORK = "network.status"
DELETED = "deleted.files"
ROOTFS = "rootfs-diff.tar"
SHM = "devshm-checkpoint.tar"
IMAGES = "checkpoint"
VOLUMES = "volumes"  # podman's
OWN_VOLUMES = "torpor/volumes"
STATISTICS = "stats-dump"
LOG = "dump.log"
HEADER = "torpor/header"
DEFINITION = "torpor/definition.yaml"
OCI = "torpor/config.json"
BUNDLE = "torpor/bundle.json"
GENERATION = "torpor/generation"
PLAN = "torpor/plan"
CGROUPS = "torpor/cgroups"
MOUNTS = "torpor/mounts"
LEASE = "torpor/network"
NETNS = "torpor/netns"
CREATED = "torpor/created"
MANIFEST = "torpor/manifest"
SIGNATURE = "torpor/manifest.sig"

DOCUMENTS = (
    *(CONFIG, SPEC, NETWORK, DEFINITION, OCI, BUNDLE, GENERATION, PLAN, CGROUPS, MOUNTS, LEASE),
    *(NETNS, CREATED, DELETED),
)
_ORDER = (
    HEADER,
    *DOCUMENTS,
    ROOTFS,
    OWN_VOLUMES,
    SHM,
    IMAGES,
    STATISTICS,
    LOG,
    MANIFEST,
    SIGNATURE,
)
DOCUMENT_MAX_BYTES = 16 << 20
_HEADER_MAX_BYTES = 1 << 16
_MANIFEST_MAX_BYTES = 64 << 20
_ENTRIES_MAX = 1 << 18  # CRIU writes a few for each process
_FORM = "archive"
_FORM_OF_MANIFEST = "archive-manifest"
STANDARD = "-"  # input or output
_NEWER = "was it made by another version of torpor?"
# zstd passes on what it does not know; gzip it knows.
_EXPAND = ("zstd", "--quiet", "--decompress", "--stdout", "--force", "--memory=128MB")
_PASS_ON = ("cat",)
_COMPRESS = ("zstd", "--quiet", "--stdout", "--threads=0")

Facts = dict[str, str]
Checksums = list[tuple[str, int, str]]  # path, size in bytes, sha256


class Writer:
    """An archive being written, compressed, to a descriptor; order is as in _ORDER."""

    def __init__(
        self, fd: int, facts: Facts, progress: Callable[[int], None], *, compressed: bool = True
    ) -> None:
        """Raises TorporError where it cannot be compressed. progress gets each count of bytes."""
        reader, self._pipe = os.pipe()
        self._said = os.memfd_create("zstd", os.MFD_CLOEXEC)
        try:
            argv = _COMPRESS if compressed else _PASS_ON
            self._child = _spawn(argv, reader, fd, self._said)
        finally:
            os.close(reader)
        self._tar = tarfile.TarFile(
            fileobj=_Counter(self._pipe, progress), mode="w", format=tarfile.PAX_FORMAT
        )
        self._checksums: Checksums = []
        self.add(HEADER, record.serialize(_FORM, list(facts.items())))

    def add(self, path: str, content: bytes) -> None:
        """Add a small file."""
        view = memoryview(content)
        place = 0

        def read(size: int) -> bytes:
            nonlocal place
            piece = view[place : place + size]
            place += len(piece)
            return bytes(piece)

        self.add_stream(path, len(content), read)

    def add_directory(self, path: str) -> None:
        self._put(_info(path, 0, tarfile.DIRTYPE), None)

    def add_stream(self, path: str, size: int, read: Callable[[int], bytes]) -> None:
        """Add size bytes of what read gives. Raises TorporError where it gives less."""
        source = _Hashing(read, size, path)
        self._put(_info(path, size, tarfile.REGTYPE), source)
        self._checksums.append((path, size, source.sha256.hexdigest()))

    def _put(self, info: tarfile.TarInfo, source: "_Hashing | None") -> None:
        try:
            self._tar.addfile(info, source)  # type: ignore[arg-type]  # only read() is called
            self._tar.members.clear()  # type: ignore[attr-defined]  # typeshed lacks it
        except BrokenPipeError:
            raise self._failure() from None

    def finish(self, sign: Callable[[bytes], bytes] | None) -> None:
        """Add the manifest, signed by sign; then wait until all is written."""
        pairs = [("entry", f"{digest} {size} {path}") for path, size, digest in self._checksums]
        manifest = record.serialize(_FORM_OF_MANIFEST, pairs)
        self.add(MANIFEST, manifest)
        if sign is not None:
            self.add(SIGNATURE, sign(manifest))
        try:
            self._tar.close()
        except BrokenPipeError:
            raise self._failure() from None
        os.close(self._pipe)
        self._pipe = -1
        if self._child.wait():
            raise self._failure()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is not finished; repeatable."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        self._child.kill()

    def _failure(self) -> TorporError:
        self._child.wait()
        return TorporError(f"cannot write the archive: {_words(self._said)}", "is the disk full?")


def _info(path: str, size: int, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.size, info.type = size, kind
    info.mode = 0o700 if kind == tarfile.DIRTYPE else 0o600
    return info


class _Counter:
    """What tarfile needs of a file to write to."""

    def __init__(self, fd: int, progress: Callable[[int], None]) -> None:
        self._fd = fd
        self._progress = progress
        self._place = 0

    def tell(self) -> int:
        return self._place

    def write(self, content: bytes) -> int:
        record.write_all(self._fd, content)
        self._place += len(content)
        self._progress(len(content))
        return len(content)

    def read(self, size: int) -> bytes:
        raise io.UnsupportedOperation

    def seek(self, place: int) -> int:
        raise io.UnsupportedOperation

    def close(self) -> None:
        pass


class _Hashing:
    """A file for tarfile that gives exactly as much as was said."""

    def __init__(self, read: Callable[[int], bytes], size: int, path: str) -> None:
        self._read = read
        self._left = size
        self._path = path
        self.sha256 = hashlib.sha256()

    def read(self, size: int) -> bytes:
        found = []
        size = min(size, self._left)
        while size:
            piece = self._read(min(size, CHUNK_BYTES))
            if not piece:
                raise TorporError(f"{self._path} became shorter while it was read")
            self.sha256.update(piece)
            found.append(piece)
            size -= len(piece)
            self._left -= len(piece)
        return b"".join(found)


class Member:
    """An entry of an archive: its content can be read once, before the next is asked for."""

    def __init__(self, entry: Entry, where: str) -> None:
        self.path = entry.path
        self.entry = entry
        self.sha256 = hashlib.sha256()
        self._pieces = self._hashed()
        self._rest = b""

    @property
    def size_bytes(self) -> int:
        return self.entry.size_bytes

    @property
    def is_directory(self) -> bool:
        return self.entry.info.isdir()

    def _hashed(self) -> Iterator[bytes]:
        for _, piece in self.entry.pieces():
            self.sha256.update(piece)
            yield piece

    def read(self, size: int) -> bytes:
        """Up to size bytes; b"" at the end. Raises ArchiveError where it is cut."""
        if not self._rest:
            self._rest = next(self._pieces, b"")
        found, self._rest = self._rest[:size], self._rest[size:]
        return found

    def read_all(self, limit_bytes: int = DOCUMENT_MAX_BYTES) -> bytes:
        """All of a small one. Raises ArchiveError where it is larger than that."""
        if self.size_bytes > limit_bytes:
            raise self.entry.error(f"is larger than {limit_bytes} bytes")
        return b"".join(self._pieces)

    def skip(self) -> None:
        """Read what is left of it, so that its checksum is known."""
        for _ in self._pieces:
            pass
        self._rest = b""


@contextmanager
def opened(path: str) -> "Iterator[Reader]":
    """An archive to be read, "-" for standard input. Raises ArchiveError, TorporError.

    with archive.opened(path) as found:
        found.header["name"]
        for member in found.members(): ...
    """
    if path == STANDARD:
        if os.isatty(0):
            raise TorporError("an archive does not come from a terminal", "say: <FILE")
        fd, where = os.dup(0), "the archive"
    else:
        try:
            fd, where = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY), path
        except OSError as error:
            raise ArchiveError(f"{path}: {error.strerror}") from error
    try:
        with Reader(fd, where) as found:
            yield found
    finally:
        os.close(fd)


class Reader:
    """An archive being read from a descriptor, whatever compressed it.

    When the members have come to their end, all were what the manifest says. header is empty, and
    nothing vouches for the members, where it is podman's (is_ours).
    """

    def __init__(self, fd: int, where: str) -> None:
        """Reads the header. Raises ArchiveError, TorporError."""
        self.where = where
        self._reader, writer = os.pipe()
        self._said = os.memfd_create("zstd", os.MFD_CLOEXEC)
        try:
            self._child = _spawn(_EXPAND, fd, writer, self._said)
        except BaseException:
            os.close(self._reader)
            raise
        finally:
            os.close(writer)
        self.progress: Callable[[int], None] = lambda _: None  # gets each count of bytes
        self.manifest = b""
        self.signature = b""
        self.header: Facts = {}
        self._checksums: Checksums = []
        try:
            self._tar = Tarball(self._read, where, _ENTRIES_MAX)
            self._entries = iter(self._tar)
            self._first = self._next()
            self.is_ours = self._first is not None and self._first.path == HEADER
            if self.is_ours and self._first is not None:
                self._read_header(self._first)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._child.kill()
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1

    def _read(self, size: int) -> bytes:
        piece = os.read(self._reader, size)
        self.progress(len(piece))
        if not piece and self._child.wait():
            raise ArchiveError(f"{self.where} cannot be read: {_words(self._said)}")
        return piece

    def _next(self) -> Member | None:
        entry = next(self._entries, None)
        if entry is None:
            return None
        if not entry.is_plain and not entry.info.isdir():
            raise entry.error("is neither a file nor a directory")
        return Member(entry, self.where)

    def _read_header(self, member: Member) -> None:
        text = member.read_all(_HEADER_MAX_BYTES)
        self._note(member)
        try:
            self.header = dict(record.parse(text, _FORM, f"{self.where}: {HEADER}"))
        except (RecordError, NewerFormatError) as error:
            raise ArchiveError(error.message, _NEWER) from error

    def _note(self, member: Member) -> None:
        member.skip()
        self._checksums.append((member.path, member.size_bytes, member.sha256.hexdigest()))

    def members(self) -> Iterator[Member]:
        """All that is not about the archive itself; what was not read of one is skipped."""
        member = self._next() if self.is_ours else self._first
        rank = 0
        while member is not None:
            if self.is_ours:
                rank = self._rank(member, rank)
            if not (self.is_ours and self._is_about_itself(member)):
                if self.manifest:
                    raise member.entry.error("comes after the manifest")
                yield member
                if not member.is_directory:
                    self._note(member)
            member = self._next()
        if self.is_ours:
            self._verify()

    def _rank(self, member: Member, before: int) -> int:
        """Where it belongs. Raises ArchiveError where it is out of place, or belongs nowhere."""
        above, _, name = member.path.rpartition("/")
        key = above if above in (IMAGES, OWN_VOLUMES) and name else member.path
        if key not in _ORDER or member.path in (HEADER, OWN_VOLUMES):
            raise member.entry.error("does not belong into an archive", _NEWER)
        rank = _ORDER.index(key)
        if rank < before:
            raise member.entry.error("is out of its place")
        if member.is_directory != (member.path == IMAGES):
            raise member.entry.error("is not of its kind")
        return rank

    def _is_about_itself(self, member: Member) -> bool:
        if member.path == MANIFEST:
            self.manifest = member.read_all(_MANIFEST_MAX_BYTES)
        elif member.path == SIGNATURE:
            self.signature = member.read_all(_HEADER_MAX_BYTES)
        else:
            return False
        return True

    def _verify(self) -> None:
        """That the manifest names all entries, with their sizes and checksums, and no other."""
        if not self.manifest:
            raise ArchiveError(f"{self.where}: {MANIFEST} is missing: it is cut off")
        place = f"{self.where}: {MANIFEST}"
        try:
            said = [
                _checksum(*pair) for pair in record.parse(self.manifest, _FORM_OF_MANIFEST, place)
            ]
        except (RecordError, NewerFormatError, ValueError) as error:
            raise ArchiveError(f"{place} is damaged: {error}", _NEWER) from error
        for wanted, found in zip(said, self._checksums, strict=False):
            if wanted != found:
                what = (
                    "is not the one that was written" if wanted[0] == found[0] else "is unexpected"
                )
                raise ArchiveError(f"{self.where}: {found[0]!a} {what}: damaged, or changed")
        if len(said) != len(self._checksums):
            longer = max(said, self._checksums, key=len)
            path = longer[min(len(said), len(self._checksums))][0]
            what = "is missing" if longer is said else "is not in the manifest"
            raise ArchiveError(f"{self.where}: {path!a} {what}")


def _checksum(key: str, value: str) -> tuple[str, int, str]:
    if key != "entry":
        raise ValueError(f"{key[:40]!a} is not known")
    digest, size, path = value.split(" ", 2)
    return path, record.number(size), digest


def _spawn(argv: tuple[str, ...], stdin: int, stdout: int, stderr: int) -> process.Child:
    if not process.find(argv[0]):
        raise TorporError(f"{argv[0]}, which compresses archives, is not here", "apt install zstd")
    return process.spawn([*argv], stdin=stdin, stdout=stdout, stderr=stderr)


def _words(said: int) -> str:
    """The first line of what a program said."""
    lines = os.pread(said, 4096, 0).decode("utf-8", "replace").strip().splitlines()
    return lines[0] if lines else "zstd was killed"
