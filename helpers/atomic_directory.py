"""A directory that is there with all of its content, or not at all, whatever is cut off when.

It is filled under another name beside it, synced and renamed. Who makes directories in one parent
waits for whoever does already.
"""

import fcntl
import os

from torpor import fault, program, record
from torpor.errors import TorporError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NAME_MAX_BYTES = 255 - len(".-01234567.new")  # NAME_MAX of linux/limits.h
_TIMEOUT_S = 600.0
_AT_FDCWD, _RENAME_EXCHANGE = -100, 1 << 1  # linux/fcntl.h, linux/fs.h
_HINT = "is the disk full, read-only or damaged?"


def make(path: str, fill: "Callable[[str], None]") -> bool:
    """Have the directory at path filled by fill, unless it is there; whether that was needed.

    fill gets the path of an empty directory, 0700. Raises what fill raises, and TorporError when
    the disk does not take it; then there is nothing at path.
    """
    try:
        return not os.path.isdir(path) and _make_alone(path, fill)
    except OSError as error:
        raise TorporError(f"{path} cannot be made: {error.strerror}", _HINT) from error


def replace(
    path: str, fill: "Callable[[str], None]", agree: "Callable[[], None]" = lambda: None
) -> None:
    """As make(), but in the place of what is at path: at no time is there neither.

    agree is called when the new one is durable, and decides by not raising. Raises what fill and
    agree raise, and TorporError; then what was at path is there as before.
    """
    try:
        _make_alone(path, fill, agree, replaces=True)
    except OSError as error:
        raise TorporError(f"{path} cannot be made: {error.strerror}", _HINT) from error


def _make_alone(
    path: str,
    fill: "Callable[[str], None]",
    agree: "Callable[[], None]" = lambda: None,
    *,
    replaces: bool = False,
) -> bool:
    parent, _, name = path.rpartition("/")
    record.make_directory(parent)
    lock = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.isdir(path) and not replaces:
            return False
        _sweep(parent)
        # Never the same name twice: a program that outlived its helper may still be filling one.
        _make(f"{parent}/.{name}-{os.urandom(4).hex()}.new", path, fill, agree)
        os.fsync(lock)
        _sweep(parent)
    finally:
        os.close(lock)
    return True


def _make(new: str, path: str, fill: "Callable[[str], None]", agree: "Callable[[], None]") -> None:
    os.mkdir(new, 0o700)
    try:
        fill(new)
        fault.point("filled")
        if reason := program.run(["sync", "--file-system", new], timeout_s=_TIMEOUT_S):
            raise TorporError(f"{path} cannot be made: {reason}", _HINT)
        agree()
        if os.path.isdir(path):
            _exchange(new, path)  # what was there is removed by the name of what was cut off
        else:
            os.rename(new, path)
    except BaseException:
        remove(new)
        raise


def _exchange(one: str, other: str) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    paths = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if libc.renameat2(*paths) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), other)


def _sweep(parent: str) -> None:
    """Remove what was cut off; the parent's lock says that nobody is at work on it."""
    for name in os.listdir(parent):
        if name.startswith(".") and name.endswith(".new"):
            remove(f"{parent}/{name}")


def remove(path: str) -> str:
    """Remove a tree whose content is not trusted: empty, or why some of it stays."""
    return program.run(["rm", "-rf", "--one-file-system", "--", path], timeout_s=_TIMEOUT_S)
