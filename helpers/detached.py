"""Mounts that lie nowhere yet: made, filled, and only then attached to what is open.

By descriptor alone, so that no path is walked at the moment of the mount: fsopen(2), open_tree(2),
move_mount(2) and mount_setattr(2). mount(8) resolves the path of its target itself.
"""

import ctypes
import errno
import os

# On every architecture that Debian ships: syscalls of 2019 and later agree.
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442
_OPEN_TREE_CLONE = 0x1  # linux/mount.h
_MOVE_MOUNT_EMPTY_PATHS = 0x04 | 0x40
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 0x1
_FSCONFIG_SET_STRING, _FSCONFIG_CREATE = 1, 6
_MS_PRIVATE = 1 << 18
_AT_EMPTY_PATH = 0x1000  # linux/fcntl.h
_STATX_MNT_ID = 0x1000  # linux/stat.h
_STATX_ATTR_MOUNT_ROOT = 0x2000

READ_ONLY, NOSUID, NODEV, NOEXEC = 0x1, 0x2, 0x4, 0x8  # MOUNT_ATTR_*
_FLAGS = {"ro": READ_ONLY, "nosuid": NOSUID, "nodev": NODEV, "noexec": NOEXEC}
_MORE_FLAGS = {**_FLAGS, "noatime": 0x10, "nodiratime": 0x80, "nosymfollow": 0x200000}
_ATIME = 0x70  # MOUNT_ATTR__ATIME, of which one value replaces another


class _Statx(ctypes.Structure):
    """struct statx of linux/stat.h, as far as it is used."""

    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("blksize", ctypes.c_uint32),
        ("attributes", ctypes.c_uint64),
        ("_between", ctypes.c_uint8 * 128),
        ("mnt_id", ctypes.c_uint64),
        ("_rest", ctypes.c_uint8 * 104),
    )


class _MountAttr(ctypes.Structure):
    """struct mount_attr of linux/mount.h."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def flags(options: "tuple[str, ...]") -> int:
    """Those of options that a mount has, in the words of mount(8), as its attributes."""
    return sum(_FLAGS.get(word, 0) for word in options)


def new(kind: str, attributes: int, **parameters: str) -> int:
    """A mount of a file system of this kind, with parameters of its own. Raises OSError."""
    context = _call("fsopen", _FSOPEN, kind.encode(), _FSOPEN_CLOEXEC)
    try:
        for key, value in {"source": kind, **parameters}.items():
            pair = (key.encode(), value.encode())
            _call(f"{kind}: {key}", _FSCONFIG, context, _FSCONFIG_SET_STRING, *pair, 0)
        _call(kind, _FSCONFIG, context, _FSCONFIG_CREATE, None, None, 0)
        return _call(kind, _FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)


def copy(handle: int) -> int:
    """A bind mount of what is open, without the mounts below it. Raises OSError."""
    words = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH
    return _call("open_tree", _OPEN_TREE, handle, b"", words)


def restrict(mount: int, attributes: int) -> None:
    """Set attributes of a mount, and let nothing that is mounted on it be seen elsewhere.

    Raises OSError.
    """
    _set(mount, _MountAttr(attributes, 0, _MS_PRIVATE, 0))


def add(path: bytes, number: int, words: list[str]) -> None:
    """Set what these words of mount(8) say beside what the mount with this number has already.

    Raises OSError, also when something else is mounted over it.
    """
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if mount_id(handle) != number:
            raise OSError(errno.EBUSY, "another mount covers it")
        attributes = sum(_MORE_FLAGS[word] for word in words)
        _set(handle, _MountAttr(attributes, _ATIME if attributes & _ATIME else 0, 0, 0))
    finally:
        os.close(handle)


def _set(mount: int, wanted: _MountAttr) -> None:
    size = ctypes.sizeof(wanted)
    _call(
        "mount_setattr", _MOUNT_SETATTR, mount, b"", _AT_EMPTY_PATH, ctypes.addressof(wanted), size
    )


def attach(mount: int, place: int) -> None:
    """Mount it on the file or directory that is open as place, whatever its path is by now.

    A mount that lies somewhere is moved, with what is mounted below it. Raises OSError.
    """
    _call("move_mount", _MOVE_MOUNT, mount, b"", place, b"", _MOVE_MOUNT_EMPTY_PATHS)


def is_mounted(handle: int) -> bool:
    """Whether what is open is the root of a mount. Raises OSError."""
    return bool(_statx(handle).attributes & _STATX_ATTR_MOUNT_ROOT)


def mount_id(handle: int) -> int:
    """The mount in which it is open, as proc_pid_mountinfo(5) numbers it. Raises OSError."""
    found: int = _statx(handle).mnt_id
    return found


def _statx(handle: int) -> _Statx:
    status = _Statx()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statx(handle, b"", _AT_EMPTY_PATH, _STATX_MNT_ID, ctypes.byref(status)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "statx")
    return status


def _call(what: str, number: int, *arguments: "int | bytes | None") -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    given = [
        ctypes.c_long(one) if isinstance(one, int) else ctypes.c_char_p(one) for one in arguments
    ]
    result: int = libc.syscall(ctypes.c_long(number), *given)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), what)
    return result
