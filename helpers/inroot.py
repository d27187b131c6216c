"""Files of a container's root file system, opened so that no link in it leads out of it."""

import ctypes
import errno
import os

from torpor import regular_file
from torpor.umask import PUBLIC, Umask

_SYS_OPENAT2 = 437  # on every architecture that Debian ships: syscalls of 2019 and later agree
_RESOLVE_NO_MAGICLINKS = 0x02  # linux/openat2.h
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RESOLVE_IN_ROOT = 0x10
_RACE_RETRIES = 32


class _OpenHow(ctypes.Structure):
    """struct open_how of linux/openat2.h."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in_root(root: str, path: str) -> int:
    """Open the regular file at path for reading; root is `/` for every link and `..` on the way.

    The file is looked at before it is opened: no device is touched, no FIFO waited for.
    Raises OSError: ENOENT, ELOOP, EISDIR, EINVAL (not a regular file), ENOSYS (Linux before 5.6).
    """
    handle = open_handle(root, path)
    try:
        regular_file.require_regular(os.fstat(handle))
        return os.open(f"/proc/self/fd/{handle}", regular_file.OPEN_FLAGS)
    finally:
        os.close(handle)


def read_in_root(root: str, path: str, limit_bytes: int) -> bytes:
    """The content of the regular file at path inside root.

    Raises OSError as open_in_root() does, and EFBIG.
    """
    fd = open_in_root(root, path)
    try:
        return regular_file.read_fd(fd, limit_bytes)[0]
    finally:
        os.close(fd)


def open_handle(root: str, path: str) -> int:
    """An O_PATH descriptor of path inside root."""
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(_RACE_RETRIES):
            try:
                return _openat2(root_fd, path, os.O_PATH | os.O_CLOEXEC, _RESOLVE_IN_ROOT)
            except BlockingIOError:
                continue  # EAGAIN: something was renamed while a `..` was resolved
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)
    finally:
        os.close(root_fd)


def make_directories(root: str, path: str) -> None:
    """Make the directory at path inside root, and those above it that are missing.

    Raises OSError as open_in_root() does.
    """
    made = ""
    for name in path.strip("/").split("/"):
        parent = open_handle(root, made or "/")
        try:
            with Umask(PUBLIC):
                os.mkdir(name, dir_fd=parent)
        except FileExistsError:
            pass
        finally:
            os.close(parent)
        made = f"{made}/{name}"


def make_file(root: str, path: str, content: bytes) -> None:
    """Make the file at path inside root, and the directories above it that are missing.

    What is there already, a link too, stays as it is. Raises OSError as open_in_root() does.
    """
    directory, name = os.path.split(path)
    make_directories(root, directory)
    parent = open_handle(root, directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with Umask(PUBLIC):
            fd = os.open(name, flags, 0o666, dir_fd=parent)
    except FileExistsError:
        return
    finally:
        os.close(parent)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def open_beneath(root_fd: int, path: str) -> int:
    """An O_PATH descriptor of the directory at path below root_fd; no link may be on the way.

    Raises OSError: ENOENT, ENOTDIR, ELOOP, EXDEV (a `..` that leads out).
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    return _openat2(root_fd, path or ".", flags, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS)


def _openat2(root_fd: int, path: str, flags: int, resolve: int) -> int:
    how = _OpenHow(flags, 0, resolve | _RESOLVE_NO_MAGICLINKS)
    name = os.fsencode(path)
    if b"\0" in name:
        raise OSError(errno.EINVAL, "the path holds a NUL", path)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    fd: int = libc.syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(root_fd),
        ctypes.c_char_p(name),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return fd
