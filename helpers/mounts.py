"""Mounts on the host: what is mounted where, and what a killed restore leaves behind."""

import errno
import os
import time

from torpor import lock, mountinfo, process, program
from torpor.errors import TorporError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 30.0
_THREADS_S = 5.0
_TICK_S = 0.01

# CRIU assembles a container's mounts on a tmpfs there (create_mnt_roots in criu/mount.c).
_CRIU_DIRECTORY = "/tmp"
_CRIU_PREFIX = ".criu.mntns."


def mount(words: list[str]) -> None:
    """Run mount(8) with these words, the last of which is the place. Raises TorporError."""
    if reason := program.run(["mount", *words], timeout_s=TIMEOUT_S):
        raise TorporError(f"cannot mount {words[-1]}: {reason}", "see: dmesg | tail")


class Private:
    """Within a with statement, what this process mounts is seen by nobody else, and then gone.

    No other thread may be running. The working directory is then the root.
    """

    def __enter__(self) -> "Private":
        self._before = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        os.unshare(os.CLONE_NEWNS)
        try:
            mount(["--make-rprivate", "/"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._return()
        finally:
            os.close(self._before)

    def _return(self) -> None:
        """Linux refuses it while a thread is there, which may be a moment longer than Python's."""
        deadline_s = time.monotonic() + _THREADS_S
        while True:
            try:
                os.setns(self._before, os.CLONE_NEWNS)
                return
            except OSError as error:
                if error.errno != errno.EINVAL or time.monotonic() > deadline_s:
                    raise
            time.sleep(_TICK_S)


def table(process_id: str = "self") -> "Iterator[list[str]]":
    """The fields of each mount that a process sees; the fifth is its place. Raises OSError.

    See proc_pid_mountinfo(5).
    """
    path = f"/proc/{process_id}/mountinfo"
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        for line in lines:
            yield mountinfo.fields(line)


def is_mounted(path: str) -> bool:
    """Whether something is mounted at exactly this path."""
    return any(fields[4] == path for fields in table())


def options(path: str) -> list[str]:
    """Options of the topmost mount at exactly this path and of its file system; [] for none."""
    found = [fields for fields in table() if fields[4] == path]
    return f"{found[-1][5]},{found[-1][-1]}".split(",") if found else []


def kind(device: int) -> str:
    """The type of a mounted file system by its st_dev; empty where no mount tells."""
    number = f"{os.major(device)}:{os.minor(device)}"
    found = (fields for fields in table() if fields[2] == number)
    return next((fields[fields.index("-") + 1] for fields in found), "")


def below(directory: str) -> list[str]:
    """The places below a directory where something is mounted, the deepest first."""
    places = {fields[4] for fields in table() if fields[4].startswith(f"{directory}/")}
    return sorted(places, key=lambda place: (-place.count("/"), place))


def detach(path: str, most: int = 16) -> bool:
    """Unmount lazily whatever lies at a path, layer by layer; False when something stays."""
    for _ in range(most):
        if not is_mounted(path):
            return True
        child = process.spawn(["umount", "--lazy", "--no-canonicalize", path])
        if child.wait(TIMEOUT_S) is None:
            child.kill()
    return not is_mounted(path)


def detach_below(directory: str) -> bool:
    """Unmount whatever is mounted below a directory; False when something stays."""
    return all([detach(place) for place in below(directory)])


def sweep_criu() -> None:
    """Remove what killed restores left, unless one is under way that may be using it.

    Whoever restores calls this at its end, so the last of several sweeps for all.
    """
    if _criu_leftovers():
        lock.while_nothing_restores(_sweep)


def _criu_leftovers() -> list[str]:
    try:
        names = os.listdir(_CRIU_DIRECTORY)
    except OSError:
        return []
    return [f"{_CRIU_DIRECTORY}/{name}" for name in names if name.startswith(_CRIU_PREFIX)]


def _sweep() -> None:
    if process.any_named("criu"):
        return  # somebody else's restore
    for path in _criu_leftovers():
        # /tmp belongs to everybody: root's directories only, no link is followed, and what
        # somebody removes meanwhile is no fault.
        try:
            if os.lstat(path).st_uid == 0 and detach(path):
                os.rmdir(path)
        except OSError:
            pass
