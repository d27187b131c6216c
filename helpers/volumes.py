"""Volumes: durable directories that a container's files are in, whatever becomes of its rootfs.

A named one belongs to all containers that name it, an image's own to one container.
"""

import errno
import os
import stat

from torpor import atomic_directory, program
from torpor.container import STATE_ROOT, Container, valid_name
from torpor.errors import TorporError

TYPE_CHECKING = False  # a start prepares volumes; it must not load what only definitions need
if TYPE_CHECKING:
    from torpor.yaml_tree import Node

STORE = f"{STATE_ROOT}/.volumes"  # no container's name begins with a dot
_COPY_TIMEOUT_S = 3600.0
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_.")


def named(volume: str) -> str:
    """The directory of a named volume. Raises WrongError for a name that is not one."""
    if not valid_name(volume):
        from torpor.values import WrongError
        from torpor.yaml_tree import shown

        raise WrongError(
            f"'{shown(volume)}' is no volume name",
            "Use at most 64 letters, digits, '-', '_' or '.', a letter or digit first; "
            "a directory of the host begins with /.",
        )
    return f"{STORE}/{volume}"


def own(container: Container, destination: str) -> str:
    """The directory of the volume that container alone has at destination, a normalised path."""
    return f"{container.state_dir}/volumes/{escape(destination)}"


def escape(path: str) -> str:
    """A normalised path as a file name, another for each: that of systemd-escape(1) --path."""
    inner = os.fsencode(path.strip("/")) or b"/"
    words = "".join(_escaped(byte) for byte in inner)
    return "\\x2e" + words[1:] if words.startswith(".") else words


def _escaped(byte: int) -> str:
    char = chr(byte)
    if char == "/":
        return "-"
    return char if char in _PLAIN else f"\\x{byte:02x}"


def parse_volumes(node: "Node") -> tuple[str, ...]:
    """The places of a container's own volumes. Raises WrongError."""
    from torpor import values

    return tuple(dict.fromkeys(values.list_of(_parse_volume, node)))


def _parse_volume(node: "Node") -> str:
    from torpor import values
    from torpor.values import WrongError
    from torpor.yaml_tree import shown

    found = values.path(node)
    if found == "/":
        raise WrongError("the root directory cannot be a volume", "See image: for it.", node.line)
    try:
        too_long = len(escape(found)) > atomic_directory.NAME_MAX_BYTES
    except UnicodeEncodeError:
        too_long = True
    if too_long:
        hint = "Name the volume and mount it there: mounts: [NAME:/PATH]"
        raise WrongError(f"'{shown(found)}' is too long for a volume", hint, node.line)
    return found


def prepare(path: str, owner: tuple[int, int], rootfs: str = "", destination: str = "") -> None:
    """Have a volume at path; a new one holds what rootfs has at destination, ids and all.

    owner is the host's uid and gid of the container's root. They own a volume that rootfs has
    nothing for. rootfs is as the container has it, with its ids mapped: mounted, not the image.
    A volume that is there stays as it is. Raises TorporError; then there is none.
    """
    atomic_directory.make(path, lambda new: _fill(new, path, owner, rootfs, destination))


def copy(source: str, target: str) -> None:
    """A copy of a directory, which is not there yet, with all that its files have.

    Raises TorporError.
    """
    from torpor.enclosure import Enclosure

    os.mkdir(target, 0o755)
    argv = ["cp", "-a", "--one-file-system", "--reflink=auto", "--sparse=auto", "--"]
    enclosure = Enclosure([source], [target])
    if reason := program.run(
        [*argv, f"{source}/.", target], timeout_s=_COPY_TIMEOUT_S, enclosure=enclosure
    ):
        raise TorporError(f"{source} cannot be copied: {reason}", "is the disk full?")


def _fill(new: str, path: str, owner: tuple[int, int], rootfs: str, destination: str) -> None:
    source = _open_source(path, rootfs, destination) if rootfs else None
    if source is None:
        os.chown(new, *owner)
        return
    from torpor.enclosure import Enclosure

    try:
        # As its standard input cp has the directory that was resolved, whatever its name is now.
        # No further than its file system: what is mounted in a rootfs is the host's.
        argv = [
            "cp",
            "-a",
            "--one-file-system",
            "--reflink=auto",
            "--sparse=auto",
            "--",
            "/proc/self/fd/0/.",
            new,
        ]
        reason = program.run(
            argv,
            timeout_s=_COPY_TIMEOUT_S,
            stdin=source,
            enclosure=Enclosure([source], [new]),
        )
    finally:
        os.close(source)
    if reason:
        raise TorporError(
            f"the volume {path} cannot be filled from {destination} in {rootfs}: {reason}",
            "is the disk full? It is tried again at the next start.",
        )


def _open_source(path: str, rootfs: str, destination: str) -> int | None:
    """What a new volume is filled from; None where the rootfs has nothing there."""
    from torpor import inroot

    try:
        source = inroot.open_handle(rootfs, destination)
        if stat.S_ISDIR(os.fstat(source).st_mode):
            return source
        os.close(source)
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise TorporError(
            f"the volume {path} cannot be filled from {destination} in {rootfs}: {error.strerror}",
            "a volume's place must be a directory, or not there",
        ) from error
