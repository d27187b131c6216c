"""CRIU's images in a directory, read with CRIU's own library.

They may be damaged, or somebody else's: whatever is wrong with one is an ImageError that names it.
What a generation, an archive or another machine has left is read alike.
"""

import os
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, NoReturn

from torpor import record, regular_file
from torpor.errors import ImageError, TorporError

# But for pages, which are never read whole: a process has at most some 65,000 mappings.
_MAX_BYTES = 64 << 20
_MESSAGE_MAX_BYTES = 1 << 10  # of a pagemap: some numbers
_IN_PARENT, _PRESENT = 1, 4  # PE_* in criu/include/pagemap.h
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Entry(dict[str, Any]):
    """A message of CRIU's, as pycriu makes it of images/*.proto. What it lacks is damage."""

    def __init__(self, message: dict[str, Any], where: str = "") -> None:
        super().__init__((key, _whole(value, where)) for key, value in message.items())
        self._where = where

    def __missing__(self, key: str) -> NoReturn:
        raise ImageError(f"{self._where} is damaged: a message has no {key!r}")


def _whole(value: object, where: str) -> object:
    if isinstance(value, dict):
        return Entry(value, where)
    return [_whole(one, where) for one in value] if isinstance(value, list) else value


class Run(NamedTuple):
    """Pages with neighbouring addresses, as one entry of a pagemap has them."""

    address: int
    pages: int
    offset_bytes: int | None  # in the pages image; None where an earlier dump has their content

    @property
    def end(self) -> int:
        return self.address + self.pages * PAGE_BYTES


class ImageDirectory:
    """The images of one dump."""

    def __init__(self, path: str) -> None:
        """Raises ImageError where there is none, TorporError without CRIU's library."""
        self.path = path
        try:
            from pycriu import images
        except ImportError as error:
            raise TorporError(
                "CRIU's images are read with CRIU's Python library, which is not there",
                "apt install python3-pycriu",
            ) from error
        self._format = images
        try:
            with os.scandir(path) as entries:
                found = [(one.name, one.stat(follow_symlinks=False).st_size) for one in entries]
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}") from error
        self.sizes_bytes = dict(sorted(found))

    def matching(self, prefix: str) -> list[str]:
        """The images whose names begin so."""
        return [name for name in self.sizes_bytes if name.startswith(prefix)]

    def entries(self, name: str) -> list[Entry]:
        """The messages of an image, without the bulk that some carry."""
        path = f"{self.path}/{name}"
        with self._open(name) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes > _MAX_BYTES:
                raise ImageError(f"{path} has {size_bytes} bytes: no such image is that large")
            try:
                found = self._format.load(file, no_payload=True)["entries"]
            except Exception as error:  # whatever bytes do to a library that trusts them
                raise _unreadable(path, error) from error
        return [Entry(one, path) for one in found]

    def entry(self, name: str) -> Entry:
        """The only message of an image."""
        found = self.entries(name)
        if not found:
            raise ImageError(f"{self.path}/{name} is empty")
        return found[0]

    def entry_if_any(self, name: str) -> Entry:
        """The only message of an image that may not be there; an empty one then."""
        return next(iter(self.entries_if_any(name)), Entry({}))

    def entries_if_any(self, name: str) -> list[Entry]:
        """The messages of an image that CRIU writes only where it has something to say."""
        return self.entries(name) if name in self.sizes_bytes else []

    def pages_image(self, pagemap: str) -> str:
        """The name of the image with the pages of a pagemap."""
        with self._open(pagemap) as file:
            return self._pages_name(self._messages(pagemap, file))

    def runs(self, pagemap: str) -> Iterator[Run]:
        """The pages of a process or a shared memory by rising address, in bounded memory."""
        path = f"{self.path}/{pagemap}"
        with self._open(pagemap) as file:
            messages = self._messages(pagemap, file)
            there_bytes = self.sizes_bytes.get(self._pages_name(messages), 0)
            offset_bytes, end = 0, 0
            for message in messages:
                pages = message.nr_pages or getattr(message, "compat_nr_pages", 0)
                if message.vaddr < end or not pages:
                    raise ImageError(f"{path} is damaged: its addresses do not rise")
                end = message.vaddr + pages * PAGE_BYTES
                if message.flags & _IN_PARENT:
                    yield Run(message.vaddr, pages, None)
                elif message.flags & _PRESENT:
                    if offset_bytes + pages * PAGE_BYTES > there_bytes:
                        raise ImageError(f"{path} has more pages than its pages image holds")
                    yield Run(message.vaddr, pages, offset_bytes)
                    offset_bytes += pages * PAGE_BYTES

    def open_pages(self, pagemap: str) -> BinaryIO:
        """The image with the pages of a pagemap, to be closed by the caller."""
        return self._open(self.pages_image(pagemap))

    def memory(self, pagemap: str, address: int, size_bytes: int) -> bytes:
        """What is at an address of a process, as far as its pages are here."""
        found = b""
        with self.open_pages(pagemap) as pages:
            for run in self.runs(pagemap):
                at = address + len(found) - run.address
                if at < 0 or len(found) == size_bytes:
                    break
                left = min(run.pages * PAGE_BYTES - at, size_bytes - len(found))
                if left > 0:
                    if run.offset_bytes is None:
                        break
                    found += os.pread(pages.fileno(), left, run.offset_bytes + at)
        return found

    def _open(self, name: str) -> BinaryIO:
        path = f"{self.path}/{name}"
        try:
            return os.fdopen(_open_regular(path), "rb")
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}") from error

    def _pages_name(self, messages: Iterator[Any]) -> str:
        return f"pages-{next(messages).pages_id}.img"

    def _messages(self, name: str, file: BinaryIO) -> Iterator[Any]:
        """A pagemap's head, and its entries: pycriu would make a dictionary of each.

        All of these together take more memory than is worth it, where a process has a million.
        """
        from pycriu.images import magic, pb

        path = f"{self.path}/{name}"
        marks = (magic.by_name["IMG_COMMON"], magic.by_name["PAGEMAP"])
        if file.read(8) != struct.pack("<II", *marks):
            raise ImageError(f"{path} is no pagemap of CRIU's")
        message = pb.pagemap_head()
        while True:
            head = file.read(4)
            if not head and not isinstance(message, pb.pagemap_head):
                return
            size_bytes = int.from_bytes(head, "little")
            try:
                if len(head) < 4 or size_bytes > _MESSAGE_MAX_BYTES:
                    raise ValueError("it is cut off")
                message.ParseFromString(file.read(size_bytes))
            except Exception as error:
                raise _unreadable(path, error) from error
            yield message
            message = pb.pagemap_entry()


def number_in(name: str) -> int:
    """The number in an image's name, as in ``pagemap-shmem-7.img``; 0 where there is none."""
    digits = name.partition(".")[0].rpartition("-")[2]
    return int(digits) if record.is_number(digits) else 0


def _open_regular(path: str) -> int:
    """A link is not followed, a FIFO not waited for. Raises OSError."""
    fd = os.open(path, regular_file.OPEN_FLAGS | os.O_NOFOLLOW)
    try:
        regular_file.require_regular(os.fstat(fd))
    except OSError:
        os.close(fd)
        raise
    return fd


def _unreadable(path: str, error: Exception) -> ImageError:
    return ImageError(f"{path} cannot be read: {type(error).__name__}: {error}")
