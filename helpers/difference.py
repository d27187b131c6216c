"""What a container's root file system has beyond the image that it began with.

It is a tar archive of all that was added or changed, directories included, and a list of what is
gone, as in podman's checkpoints (CRCreateRootFsDiffTar in its pkg/checkpoint/crutils): applied by
extracting the one and then removing the other. Without an image it is the whole tree.

The tree must stand still: the container sleeps, or is frozen.
"""

import os
import stat
from collections.abc import Callable, Iterator

from torpor import process
from torpor.errors import TorporError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from torpor.tarball import Entry, Tarball

_OPAQUE = "trusted.overlay.opaque"  # overlayfs.rst of the kernel
_REDIRECT = "trusted.overlay.redirect"
# The same bytes whenever the same tree is read, so that its size can be asked first.
_TAR = (
    *("tar", "--create", "--format=posix", "--sparse", "--blocking-factor=1"),
    *("--numeric-owner", "--xattrs", "--xattrs-include=*", "--no-recursion"),
    "--pax-option=delete=atime,delete=ctime,exthdr.name=%d/PaxHeaders/%f",
)
_LIST = ("--null", "--verbatim-files-from", "--files-from=/proc/self/fd/0")
_TOTALS = "Total bytes written: "
_COUNT_TIMEOUT_S = 3600.0
ENTRIES_MAX = 1 << 20
_SAID_MAX_BYTES = 1 << 16
# Device nodes that mean the same everywhere and give nobody anything (devices.txt of the kernel).
_HARMLESS = frozenset(((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)))


class Difference:
    """The names of a difference, found at once; its content is read by write()."""

    def __init__(self, root: str, names: list[str], deleted: list[str]) -> None:
        self.root = root  # where the root file system can be read
        self.deleted = deleted  # absolute paths in it
        self._list = _file_of(names)

    def close(self) -> None:
        os.close(self._list)

    def size_bytes(self) -> int:
        """What write() will write. Raises TorporError."""
        reader, writer = os.pipe()
        try:
            child = self._spawn(["--file=/dev/null", "--totals"], None, writer)
        finally:
            os.close(writer)
        status, said = process.collect(child, reader, _COUNT_TIMEOUT_S, _SAID_MAX_BYTES)
        if status or _TOTALS not in said:
            raise self._error(said)
        return int(said.rpartition(_TOTALS)[2].split()[0])

    def open(self) -> "Stream":
        """The archive, to be read."""
        return Stream(self)

    def spawn(self, stdout: int, stderr: int) -> process.Child:
        return self._spawn(["--file=-"], stdout, stderr)

    def _spawn(self, words: list[str], stdout: int | None, stderr: int) -> process.Child:
        os.lseek(self._list, 0, os.SEEK_SET)
        argv = [*_TAR, *words, f"--directory={self.root}", *_LIST]
        env = {"LC_ALL": "C"}
        return process.spawn(argv, stdin=self._list, stdout=stdout, stderr=stderr, env=env)

    def _error(self, said: str) -> TorporError:
        lines = said.strip().splitlines()
        reason = lines[0] if lines else "tar was killed"
        return TorporError(f"{self.root} cannot be read: {reason}", "is its disk damaged?")


class Stream:
    """What tar writes of a difference: read() until it gives nothing, then close()."""

    def __init__(self, difference: Difference) -> None:
        self._difference = difference
        self._said = os.memfd_create("tar", os.MFD_CLOEXEC)
        self._reader, writer = os.pipe()
        try:
            self._child = difference.spawn(writer, self._said)
        finally:
            os.close(writer)

    def read(self, size: int) -> bytes:
        """Raises TorporError where tar fails."""
        chunk = os.read(self._reader, size)
        if not chunk and self._child.wait():
            said = os.pread(self._said, _SAID_MAX_BYTES, 0).decode("utf-8", "replace")
            raise self._difference._error(said)
        return chunk

    def close(self) -> None:
        self._child.kill()
        os.close(self._reader)
        os.close(self._said)


def _file_of(names: list[str]) -> int:
    """For tar: each name with a NUL after it."""
    fd = os.memfd_create("names", os.MFD_CLOEXEC)
    with os.fdopen(fd, "wb", closefd=False) as file:
        for name in names:
            file.write(os.fsencode(name) + b"\0")
    return fd


def of_tree(root: str) -> Difference:
    """All of a root file system. Raises TorporError, OSError."""
    names = [".", *_below(root, "")]
    return Difference(root, names, [])


def of_layer(root: str, upper: str, lower: str) -> Difference:
    """What a container wrote over an image, lower, to an overlay's upper directory.

    root is where both are mounted as the container has them: that knows of renamed directories, of
    copied files that are links to each other, and shows none of overlayfs's own marks.
    Raises TorporError, OSError.
    """
    layer = _Layer(root, upper, lower)
    layer.walk("")
    return Difference(root, [".", *layer.names, *layer.links_elsewhere()], layer.deleted)


class _Layer:
    def __init__(self, root: str, upper: str, lower: str) -> None:
        self._root = root
        self._upper = upper
        self._lower = lower
        self.names: list[str] = []
        self.deleted: list[str] = []

    def walk(self, above: str) -> None:
        pending = [above]
        while pending:
            directory = pending.pop()
            for name, status in _children(self._upper, directory):
                if _is_whiteout(status):
                    self._note_deleted(name)
                    continue
                self._note(name, status)
                if not stat.S_ISDIR(status.st_mode):
                    continue
                if _is_alone(f"{self._upper}/{name}"):
                    self._walk_all(name)
                else:
                    pending.append(name)

    def _walk_all(self, top: str) -> None:
        """A directory that is not merged with the image's of that name."""
        pending = [top]
        while pending:
            directory = pending.pop()
            self._note_missing(directory)
            for name, status in _children(self._root, directory):
                self._note(name, status)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(name)

    def _note_missing(self, directory: str) -> None:
        if os.path.isdir(f"{self._lower}/{directory}") and not os.path.islink(
            f"{self._lower}/{directory}"
        ):
            for name, _ in _children(self._lower, directory):
                if not os.path.lexists(f"{self._root}/{name}"):
                    self._note_deleted(name)

    def _note_deleted(self, name: str) -> None:
        if os.path.lexists(f"{self._lower}/{name}"):
            self.deleted.append(f"/{name}")

    def _note(self, name: str, status: os.stat_result) -> None:
        if _travels(f"{self._root}/{name}", status):
            self.names.append(name)

    def links_elsewhere(self) -> list[str]:
        """Names that only the image has, of files that were changed under another name."""
        known: dict[tuple[int, int], int] = {}
        wanted: dict[tuple[int, int], int] = {}
        for name in self.names:
            status = os.lstat(f"{self._root}/{name}")
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                key = (status.st_dev, status.st_ino)
                known[key] = known.get(key, 0) + 1
                wanted[key] = status.st_nlink
        if all(known[key] >= count for key, count in wanted.items()):
            return []
        listed = set(self.names)
        return [
            name
            for name, status in _tree(self._root, "")
            if name not in listed
            and stat.S_ISREG(status.st_mode)
            and (status.st_dev, status.st_ino) in wanted
        ]


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_alone(path: str) -> bool:
    """Whether a directory of an upper layer hides the image's, or is another of the image's."""
    return bool({_OPAQUE, _REDIRECT} & set(os.listxattr(path, follow_symlinks=False)))


def _children(root: str, directory: str) -> Iterator[tuple[str, os.stat_result]]:
    """Paths relative to root, sorted: the same tree gives the same archive."""
    with os.scandir(f"{root}/{directory}") as entries:
        found = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)
    for name, status in found:
        yield f"{directory}/{name}".lstrip("/"), status


def _below(root: str, directory: str) -> list[str]:
    return [name for name, status in _tree(root, directory) if _travels(f"{root}/{name}", status)]


def _tree(root: str, top: str) -> Iterator[tuple[str, os.stat_result]]:
    """All below top; what is mounted there is the host's."""
    device = os.stat(f"{root}/{top}").st_dev
    pending = [top]
    while pending:
        for name, status in _children(root, pending.pop()):
            yield name, status
            if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
                pending.append(name)


def _travels(path: str, status: os.stat_result) -> bool:
    """A socket is made by who listens on it, by CRIU too. Raises TorporError for a device."""
    mode = status.st_mode
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        require_harmless(path, os.major(status.st_rdev), os.minor(status.st_rdev))
    return not stat.S_ISSOCK(mode)


def require_harmless(path: str, major: int, minor: int) -> None:
    """Raise TorporError for a device node that could be anything on another machine."""
    if (major, minor) not in _HARMLESS:
        raise TorporError(
            f"{path}: a device ({major}:{minor}) does not travel",
            "remove it, and give it to the container with devices: in its definition",
        )


def apply(root: str, archive: "Tarball", room: Callable[["Entry"], None]) -> list[str]:
    """Make all that a difference's archive holds; room is asked before each file is made.

    Nothing outside of root is touched, whatever the archive says and links in root lead to.
    Raises ArchiveError, which names the entry, and OSError. Returns warnings.
    """
    from torpor.extraction import Extraction

    with Extraction(root) as extraction:
        for entry in archive:
            room(entry)
            extraction.extract(entry)
        extraction.settle()
        return extraction.warnings


def remove(root: str, deleted: list[str]) -> list[str]:
    """After that, remove what is gone; as apply()."""
    from torpor.extraction import Extraction

    with Extraction(root) as extraction:
        return extraction.remove(deleted)
