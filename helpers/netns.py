"""Named network namespaces, as ip-netns(8) has them: one per container with its own network."""

import os

from torpor import process, program, umask
from torpor.container import Container, valid_name
from torpor.errors import TorporError

ROOT = "/run/netns"
PREFIX = "torpor-"  # before the name of the container
_TIMEOUT_S = 10.0
_NOBODYS = "ino:0"  # of a socket without a file
_ENDS_PER_CALL = 500


def name(container: Container) -> str:
    """What ``ip -n`` calls the container's namespace."""
    return f"{PREFIX}{container.name}"


def path(container: Container) -> str:
    return f"{ROOT}/{name(container)}"


def make(container: Container) -> None:
    """Make an empty one that lasts until it is removed, or the host is rebooted."""
    _ip("add", name(container))


def attach(container: Container, pid: int) -> None:
    """Give that of a process the container's name."""
    _ip("attach", name(container), str(pid))


def _ip(*words: str) -> None:
    argv = ["ip", "netns", *words]  # which makes ROOT too, where it is missing
    if reason := program.run(argv, timeout_s=_TIMEOUT_S, umask=umask.PUBLIC):
        raise TorporError(
            f"ip netns {' '.join(words)}: {reason}", "is the package iproute2 installed?"
        )


def remove(container: Container) -> str:
    """Remove its name, and the namespace if nobody is in it; why it could not be done, or "".

    Unlike ``ip netns delete`` it copes with a name under which nothing is mounted any more.
    """
    from torpor import mounts

    place = path(container)
    if not os.path.lexists(place):
        return ""
    while os.path.ismount(place):
        if not mounts.detach(place):
            return f"{place} cannot be unmounted; see: findmnt {place}"
    try:
        os.unlink(place)
    except FileNotFoundError:
        pass
    except OSError as error:
        return f"{place}: {error.strerror}"
    return ""


def drop_connections(container: Container) -> bool:
    """End what the kernel still has of the TCP connections of processes that were killed.

    They keep their ports for a minute, and nobody could bind these again. Those of others who live
    in the namespace go on. False where some stay: the kernel may be built without the means
    (CONFIG_INET_DIAG_DESTROY).
    """
    ss = ["nsenter", f"--net={path(container)}", "ss", "--no-header", "--tcp", "--all"]
    ss += ["--numeric", "--extended"]
    ends = _orphans(ss)
    if not ends:
        return ends is not None
    for first in range(0, len(ends), _ENDS_PER_CALL):
        some = ends[first : first + _ENDS_PER_CALL]
        which = [f"( src {local} and dst {peer} )" for local, peer in some]
        process.output([*ss, "--kill", " or ".join(which)])
    return _orphans(ss) == []


def _orphans(ss: list[str]) -> list[tuple[str, str]] | None:
    """Both ends of the connections that no process has; None where ss(8) does not say."""
    status, text = process.output(ss)
    if status:
        return None
    lines = [line.split() for line in text.splitlines()]
    return [(words[3], words[4]) for words in lines if _NOBODYS in words[5:]]


def identity(container: Container) -> str:
    """Tells its namespace of this moment from any other; empty where there is none."""
    try:
        found = os.stat(path(container))
    except OSError:
        return ""
    return f"{found.st_dev}:{found.st_ino}" if os.path.ismount(path(container)) else ""


def is_of(container: Container, pid: int) -> bool:
    """Whether the namespace of this name is that of the process."""
    try:
        return os.path.samestat(os.stat(path(container)), os.stat(f"/proc/{pid}/ns/net"))
    except FileNotFoundError:
        return False


def all_names() -> list[str]:
    """The containers that have a namespace by this convention."""
    try:
        found = os.listdir(ROOT)
    except FileNotFoundError:
        return []
    names = [each.removeprefix(PREFIX) for each in found if each.startswith(PREFIX)]
    return [each for each in names if valid_name(each)]
