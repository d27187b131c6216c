"""A tar archive by somebody who is not trusted, read forward only and within bounds.

tarfile(3) reads headers of any size into memory, holds all members, and takes a damaged header for
the end. What stands between it and the archive here counts, and remembers the last block.
Formats: pax(1) of POSIX.1-2017, and the sparse files of GNU tar.
"""

import io
import tarfile
from collections.abc import Callable, Iterator

from torpor.errors import ArchiveError

BLOCK_BYTES = tarfile.BLOCKSIZE
CHUNK_BYTES = 1 << 20
_HEADER_MAX_BYTES = 4 << 20  # of one entry, its extended attributes and its map of holes included
_NAME_MAX_BYTES = 4096  # PATH_MAX of linux/limits.h
_PART_MAX_BYTES = 255  # NAME_MAX
_END = bytes(BLOCK_BYTES)
_XATTR = "SCHILY.xattr."

Read = Callable[[int], bytes]


class Entry:
    """One entry. Its content must be read before the next entry is asked for."""

    __slots__ = ("_archive", "info", "path")

    def __init__(self, archive: "Tarball", info: tarfile.TarInfo, path: str) -> None:
        self._archive = archive
        self.info = info
        self.path = path  # relative, normalised; "" is the root itself

    @property
    def size_bytes(self) -> int:
        """What it takes in the archive, and at most on disk."""
        return sum(size for _, size in self._spans())

    @property
    def is_plain(self) -> bool:
        """Whether it is a regular file without holes."""
        return self.info.isreg() and self.info.sparse is None

    def _spans(self) -> list[tuple[int, int]]:
        """Where there is something between the holes: offsets and sizes."""
        found: object = self.info.sparse
        return found if isinstance(found, list) else [(0, self.info.size)]

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """The content of a regular file: where each piece belongs, and what it is."""
        info = self.info
        self._archive.forward(info.offset_data)
        end = 0
        for offset, size in self._spans():
            if offset < end or size < 0 or offset + size > info.size:
                raise self._archive.error(self.path, "its map of holes is wrong")
            end = offset + size
            while size:
                chunk = self._archive.take(min(size, CHUNK_BYTES))
                if not chunk:
                    raise self._archive.error(self.path, "is cut off")
                yield offset, chunk
                offset += len(chunk)
                size -= len(chunk)

    def read(self, limit_bytes: int) -> bytes:
        """All of a small file. Raises ArchiveError where it is larger."""
        if self.size_bytes > limit_bytes or not self.is_plain:
            raise self._archive.error(self.path, f"is larger than {limit_bytes} bytes")
        return b"".join(piece for _, piece in self.pieces())

    def xattrs(self) -> dict[str, bytes]:
        """Its extended attributes, by their full names."""
        return {
            key.removeprefix(_XATTR): value.encode("utf-8", "surrogateescape")
            for key, value in self.info.pax_headers.items()
            if key.startswith(_XATTR)
        }

    def error(self, problem: str, hint: str = "") -> ArchiveError:
        return self._archive.error(self.path, problem, hint)


class Tarball:
    """The entries of an archive, each once and in order."""

    def __init__(self, read: Read, where: str, entries_max: int) -> None:
        """read(size) gives up to size bytes, b"" at the end; where is for messages."""
        self._source = _Forward(read, where)
        self._where = where
        self._entries_max = entries_max
        self._archive: tarfile.TarFile | None = None

    def __iter__(self) -> Iterator[Entry]:
        """Raises ArchiveError where it is damaged, cut, or not within bounds."""
        seen: set[str] = set()
        while (info := self._next()) is not None:
            entry = Entry(self, info, self._path(info.name))
            if entry.path in seen:
                raise entry.error("is there twice")
            seen.add(entry.path)
            if len(seen) > self._entries_max:
                raise self.error("", f"holds more than {self._entries_max} entries")
            yield entry
        self._require_end()

    def _next(self) -> tarfile.TarInfo | None:
        self._source.budget = _HEADER_MAX_BYTES
        try:
            if self._archive is None:
                self._archive = tarfile.TarFile(
                    fileobj=self._source, mode="r", encoding="utf-8", errors="surrogateescape"
                )
            found = self._archive.next()
        except ArchiveError:
            raise
        # tarfile lets pass what int(), struct and its own recursion raise.
        except (tarfile.TarError, ValueError, OSError, ArithmeticError, RecursionError) as error:
            raise self.error("", f"is no tar archive, or damaged: {error}") from error
        finally:
            self._source.budget = -1
        self._archive.members.clear()  # type: ignore[attr-defined]  # typeshed lacks it
        if self._archive.pax_headers:
            raise self.error("", "has a header for all entries, which none of ours has")
        return found

    def _path(self, name: str) -> str:
        try:
            return relative_path(name)
        except ValueError as error:
            raise ArchiveError(f"{self._where}: {error}") from error

    def _require_end(self) -> None:
        """That it ended by its end mark, and nothing comes after that."""
        if self._source.last != _END:
            raise self.error("", "is cut off or damaged")
        while chunk := self._source.read(CHUNK_BYTES):
            if chunk.count(0) != len(chunk):
                raise self.error("", "goes on after its end")

    def forward(self, place: int) -> None:
        self._source.seek(place)

    def take(self, size: int) -> bytes:
        return self._source.read(size)

    def error(self, path: str, problem: str, hint: str = "") -> ArchiveError:
        what = f"{self._where}: {path!a}" if path else self._where
        return ArchiveError(f"{what} {problem}", hint)


class _Forward:
    """A file for tarfile that cannot go back, nor read a header that has no end."""

    def __init__(self, read: Read, where: str) -> None:
        self._read = read
        self._where = where
        self._place = 0
        self.budget = -1  # bytes that may be read at most; negative for any number
        self.last = b""

    def tell(self) -> int:
        return self._place

    def write(self, content: bytes) -> int:
        raise io.UnsupportedOperation

    def close(self) -> None:
        pass

    def seek(self, place: int, whence: int = 0) -> int:
        if whence or place < self._place:
            raise ArchiveError(f"{self._where} is no tar archive, or damaged: it leads backwards")
        budget, self.budget = self.budget, -1
        while self._place < place:
            if not self.read(min(place - self._place, CHUNK_BYTES)):
                raise ArchiveError(f"{self._where} is cut off")
        self.budget = budget
        return place

    def read(self, size: int = -1) -> bytes:
        if self.budget >= 0:
            self.budget -= size
            if size < 0 or self.budget < 0:
                raise ArchiveError(f"{self._where}: a header is larger than any that is needed")
        pieces = []
        while size > 0 and (piece := self._read(size)):
            pieces.append(piece)
            size -= len(piece)
        found = b"".join(pieces)
        self._place += len(found)
        self.last = found
        return found


def relative_path(name: str) -> str:
    """A relative path without `.` parts. Raises ValueError for one that leads elsewhere."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    lengths = [len(part.encode("utf-8", "surrogateescape")) for part in parts]
    too_long = len(name) > _NAME_MAX_BYTES or max(lengths, default=0) > _PART_MAX_BYTES
    if name.startswith("/") or ".." in parts or "\0" in name or too_long:
        raise ValueError(f"{name[:200]!a} is no path inside of it")
    return "/".join(parts)
