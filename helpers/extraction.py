"""Files of an archive made in a directory, and in no other place: each entry looked at by itself.

Every parent is opened below the directory without a link on the way (openat2(2)), every file is
made anew, and what was there in its place is removed first, as podman's untar does.
"""

import errno
import os
import shutil
import stat

from torpor import difference, inroot, record
from torpor.errors import ArchiveError, TorporError
from torpor.tarball import Entry, relative_path

_KINDS = ("user.", "trusted.", "security.", "system.posix_acl_")
_LAYERS = "trusted.overlay."  # what overlayfs goes by is not an archive's to say
_UNSUPPORTED = (errno.ENOTSUP, errno.EPERM, errno.EINVAL)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SHOWN_MAX = 5


class Extraction:
    """One archive on its way into a directory."""

    def __init__(self, root: str) -> None:
        self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._regular: set[str] = set()  # those that a later entry may link to
        self._directories: list[Entry] = []  # whose times are set when nothing more is put in them
        self.warnings: list[str] = []

    def __enter__(self) -> "Extraction":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    def extract(self, entry: Entry) -> None:
        """Make one file. Raises ArchiveError, which names it, and OSError."""
        try:
            self._extract(entry)
        except (ValueError, OverflowError) as error:
            raise entry.error(f"says what cannot be: {error}") from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
                raise
            raise entry.error(f"cannot be made: {error.strerror}") from error

    def _extract(self, entry: Entry) -> None:
        if not entry.path:
            if not entry.info.isdir():
                raise entry.error("the root file system is no directory")
            self._finish(entry, self._root, None)
            return
        above, _, name = entry.path.rpartition("/")
        parent = self._open_directory(above, entry)
        try:
            self._clear(entry, parent, name)
            self._make(entry, parent, name)
            handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                if not entry.info.islnk():
                    self._finish(entry, handle, parent)
            finally:
                os.close(handle)
        finally:
            os.close(parent)

    def _open_directory(self, path: str, entry: Entry) -> int:
        try:
            return inroot.open_beneath(self._root, path)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise entry.error(f"leads through {path!a}, which is no directory") from error
            if error.errno == errno.ENOENT:
                raise entry.error("is in a directory that is not there") from error
            raise

    def _clear(self, entry: Entry, parent: int, name: str) -> None:
        """Remove what is there; a directory stays where the entry is one too."""
        try:
            mode = os.lstat(name, dir_fd=parent).st_mode
        except FileNotFoundError:
            return
        if not (stat.S_ISDIR(mode) and entry.info.isdir()):
            _remove(parent, name, mode)

    def _make(self, entry: Entry, parent: int, name: str) -> None:
        info = entry.info
        if info.isdir():
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                pass
        elif info.issym():
            os.symlink(info.linkname, name, dir_fd=parent)
        elif info.islnk():
            self._link(entry, parent, name)
        elif info.isfifo():
            os.mkfifo(name, 0o600, dir_fd=parent)
        elif info.isreg():
            self._write(entry, parent, name)
        elif info.ischr() or info.isblk():
            self._make_device(entry, parent, name)
        else:
            raise entry.error(f"is of a kind that is not known: {info.type!r}")

    def _make_device(self, entry: Entry, parent: int, name: str) -> None:
        info = entry.info
        if info.isblk():
            raise entry.error("is a block device, which does not travel")
        try:
            difference.require_harmless(entry.path, info.devmajor, info.devminor)
        except TorporError as error:
            raise entry.error(
                f"is a device ({info.devmajor}:{info.devminor}), which does not travel"
            ) from error
        number = os.makedev(info.devmajor, info.devminor)
        os.mknod(name, stat.S_IFCHR | 0o600, number, dir_fd=parent)

    def _write(self, entry: Entry, parent: int, name: str) -> None:
        fd = os.open(name, _NEW, 0o600, dir_fd=parent)
        try:
            for offset, piece in entry.pieces():
                view = memoryview(piece)
                while view:
                    count = os.pwrite(fd, view, offset)
                    offset += count
                    view = view[count:]
            os.ftruncate(fd, entry.info.size)
        finally:
            os.close(fd)
        self._regular.add(entry.path)

    def _link(self, entry: Entry, parent: int, name: str) -> None:
        target = relative_path(entry.info.linkname)
        if target not in self._regular:
            raise entry.error(f"links to {target!a}, which is no file before it in the archive")
        above, _, last = target.rpartition("/")
        directory = self._open_directory(above, entry)
        try:
            os.link(last, name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(directory)

    def _finish(self, entry: Entry, handle: int, parent: int | None) -> None:
        """Owner first, which takes capabilities and set-ids away; the mode last."""
        info = entry.info
        place = f"/proc/self/fd/{handle}"
        os.chown(place, info.uid, info.gid)
        for key, value in entry.xattrs().items():
            self._set_xattr(entry, place, key, value)
        if not info.issym():
            os.chmod(place, stat.S_IMODE(info.mode))
        if info.isdir():
            self._directories.append(entry)
        else:
            _set_time(place, entry)

    def _set_xattr(self, entry: Entry, place: str, key: str, value: bytes) -> None:
        if key.startswith(_LAYERS) or not key.startswith(_KINDS):
            self._warn(f"{entry.path!a}: its extended attribute {key[:80]!a} stays behind")
            return
        try:
            os.setxattr(place, key, value)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            self._warn(f"{entry.path!a}: its extended attribute {key[:80]!a}: {error.strerror}")

    def _warn(self, text: str) -> None:
        if len(self.warnings) < _SHOWN_MAX:
            self.warnings.append(text)
        elif len(self.warnings) == _SHOWN_MAX:
            self.warnings.append("and more of that kind")

    def settle(self) -> None:
        """When all is there: the times of directories, the deepest first."""
        for entry in reversed(self._directories):
            try:
                handle = inroot.open_beneath(self._root, entry.path)
            except OSError as error:
                raise entry.error(f"is no directory any more: {error.strerror}") from error
            try:
                _set_time(f"/proc/self/fd/{handle}", entry)
            finally:
                os.close(handle)

    def remove(self, deleted: list[str]) -> list[str]:
        """Remove what the difference says is gone; a warning where some was not there at all.

        Raises ArchiveError for what is no path below the root.
        """
        missing = [path for path in deleted if not self._remove(path)]
        if not missing:
            return []
        return [
            f"{len(missing)} files that it removed were not there, as {missing[0][:200]!a}: is the "
            "image the one that it began with?"
        ]

    def _remove(self, said: str) -> bool:
        try:
            path = relative_path(said.removeprefix("/"))
        except ValueError as error:
            raise ArchiveError(f"deleted.files: {error}") from error
        if not path:
            raise ArchiveError(f"deleted.files: {said!a} is no path of a file")
        above, _, name = path.rpartition("/")
        try:
            parent = inroot.open_beneath(self._root, above)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return False
            if error.errno == errno.ELOOP:
                raise ArchiveError(f"deleted.files: {said[:200]!a} leads through a link") from error
            raise
        try:
            kept = os.fstat(parent)  # the image's directory gets no newer by it
            _remove(parent, name, os.lstat(name, dir_fd=parent).st_mode)
            times = (kept.st_atime_ns, kept.st_mtime_ns)
            os.utime(f"/proc/self/fd/{parent}", ns=times)
        except FileNotFoundError:
            return False
        finally:
            os.close(parent)
        return True


def _remove(parent: int, name: str, mode: int) -> None:
    if not stat.S_ISDIR(mode):
        os.unlink(name, dir_fd=parent)
        return
    # Looks at each step whether it is still where it was (shutil.rmtree.avoids_symlink_attacks).
    shutil.rmtree(name, dir_fd=parent)


def _set_time(place: str, entry: Entry) -> None:
    seconds, _, fraction = entry.info.pax_headers.get("mtime", "").partition(".")
    if not record.is_number(seconds):
        seconds, fraction = str(max(0, int(entry.info.mtime))), ""
    time_ns = int(seconds) * 1_000_000_000 + record.number(fraction[:9].ljust(9, "0"))
    os.utime(place, ns=(time_ns, time_ns))
