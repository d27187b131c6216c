"""Programs of the host that work on files whose author is not trusted: what they cannot do.

Landlock lets them open nothing but what they are to read and to write, whatever links lead where
(https://docs.kernel.org/userspace-api/landlock.html, Linux 5.19); an older kernel, or one without
it, leaves them all files. They gain no privileges, and keep no capability but those about files.
"""

import ctypes
import os
from collections.abc import Iterable
from typing import NoReturn

from torpor import process

# What every program reads. /lib and the like are links into /usr.
_SYSTEM = ("/usr", "/etc/ld.so.cache", "/proc/self", "/sys/kernel/mm/transparent_hugepage")
# SYS_ADMIN is for extended attributes of the kinds trusted and security (xattr(7)).
_CAPABILITIES = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID"),
    *("CAP_MKNOD", "CAP_SETFCAP", "CAP_SYS_ADMIN"),
)

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_ASK_VERSION = 1 << 0
_PATH_BENEATH = 1
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_OF_FILES = _EXECUTE | 1 << 1 | _READ_FILE | 1 << 14 | 1 << 15  # what a rule for a file may say
_WITH_LINKS = 2  # the first version under which a file can get a name in another directory
_RIGHTS = {2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_RIGHTS_SINCE_5 = (1 << 16) - 1


class _Ruleset(ctypes.Structure):
    """struct landlock_ruleset_attr of linux/landlock.h, as far as it is about files."""

    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class _Beneath(ctypes.Structure):
    """struct landlock_path_beneath_attr."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


class Enclosure:
    """What a program may read, and what it may change, with all that is below; paths must exist."""

    def __init__(self, reads: Iterable[str | int], writes: Iterable[str]) -> None:
        self._reads = (*reads, *filter(os.path.exists, _SYSTEM))  # a number is a descriptor
        self._writes = tuple(writes)

    def spawn(
        self,
        argv: list[str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        env: dict[str, str] | None = None,
        umask: int | None = None,
    ) -> process.Child:
        """As process.spawn(), for a process that has no other threads."""
        import prctl  # noqa: F401  # not in the child

        path = process.find(argv[0])
        environment = process.environment(env)
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        standard = (nothing if stdin is None else stdin, stdout, stderr)
        try:
            pid = os.fork()
            if pid == 0:
                self._become(path, argv, environment, standard, umask)
        finally:
            os.close(nothing)
        return process.Child(pid)

    def _become(
        self,
        path: str,
        argv: list[str],
        environment: dict[str, str],
        standard: tuple[int | None, ...],
        umask: int | None,
    ) -> NoReturn:
        import signal

        try:
            ruleset = self._ruleset()
            for number, fd in enumerate(standard):
                if fd is not None:
                    os.dup2(fd, number)
            if umask is not None:
                os.umask(umask)
            _give_up_rights()
            if ruleset is not None:
                _landlock(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.execve(path, argv, environment)
        except OSError as error:
            os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(os.EX_NOPERM)

    def _ruleset(self) -> int | None:
        """A descriptor of the rules; None where the kernel has none."""
        version = _version()
        if version < _WITH_LINKS:
            return None
        rights = _RIGHTS.get(version, _RIGHTS_SINCE_5)
        attributes = _Ruleset(rights)
        size = ctypes.c_size_t(ctypes.sizeof(attributes))
        ruleset = _landlock(_CREATE_RULESET, ctypes.byref(attributes), size, ctypes.c_uint32(0))
        for place in self._reads:
            _allow(ruleset, place, _EXECUTE | _READ_FILE | _READ_DIR)
        for place in self._writes:
            _allow(ruleset, place, rights)
        return ruleset


def _version() -> int:
    try:
        return _landlock(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION))
    except OSError:  # ENOSYS: not built; EOPNOTSUPP: switched off
        return 0


def _allow(ruleset: int, place: str | int, rights: int) -> None:
    fd = os.open(place, os.O_PATH | os.O_CLOEXEC) if isinstance(place, str) else os.dup(place)
    try:
        is_directory = os.path.isdir(f"/proc/self/fd/{fd}")
        rule = _Beneath(rights if is_directory else rights & _OF_FILES, fd)
        kind = ctypes.c_int(_PATH_BENEATH)
        _landlock(_ADD_RULE, ctypes.c_int(ruleset), kind, ctypes.byref(rule), ctypes.c_uint32(0))
    finally:
        os.close(fd)


def _landlock(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return result


def _give_up_rights() -> None:
    import prctl

    if os.geteuid() == 0:
        prctl.capbset.limit(*(getattr(prctl, name) for name in _CAPABILITIES))
        prctl.cap_inheritable.limit()
    prctl.set_no_new_privs(1)
