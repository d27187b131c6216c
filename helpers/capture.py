"""The files that belong to a container's memory: those that it alone may have changed.

What it wrote over an image, or its root file system; its own volumes, and named ones that no other
container names. Not what is the host's, as bind mounts are, nor what several containers share:
that goes on whatever becomes of this one.
"""

import os

from torpor import last_rendering, mounts, overlay, patience, preparation, program, record, volumes
from torpor.container import STATE_ROOT, Container, valid_name
from torpor.enclosure import Enclosure
from torpor.errors import CheckpointError, RecordError, TorporError
from torpor.last_rendering import Inputs
from torpor.preparation import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torpor.patience import Stall

STORAGE = "storage"  # what it wrote over an image: an upper layer, and of which image it is
ROOTFS = "rootfs"
VOLUME = "volume"
_KINDS = (STORAGE, ROOTFS, VOLUME)
_FORM = "places"
_IMAGE = "image"  # in storage, see overlay
_IMAGE_MAX_BYTES = 4096
_DU_TIMEOUT_S = 600.0


class Place:
    """A directory whose content is the container's alone."""

    __slots__ = ("kind", "path")

    def __init__(self, kind: str, path: str) -> None:
        self.kind = kind
        self.path = path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and (self.kind, self.path) == (other.kind, other.path)

    __hash__ = None  # type: ignore[assignment]

    def tree(self, directory: str) -> str:
        """Which part of it, or of a copy of it, is files of the container."""
        return f"{directory}/upper" if self.kind == STORAGE else directory


def of(container: Container, inputs: Inputs, plan: Plan, *, read_only: bool) -> list[Place]:
    """All of a container. Raises TorporError where its root file system is not its own.

    read_only: it cannot write to a root file system that is a directory.
    """
    found = []
    if inputs.image is not None:
        found.append(Place(STORAGE, overlay.storage_path(container)))
    elif not read_only:
        found.append(Place(ROOTFS, os.path.realpath(inputs.rootfs)))
        require_own(container, found[0])
    for key, said in plan:
        if key == preparation.FILL:
            found.append(Place(VOLUME, volumes.own(container, said)))
        elif key == preparation.VOLUME and not sharers(container, said):
            found.append(Place(VOLUME, volumes.named(said)))
    return found


def shared(container: Container, plan: Plan) -> list[str]:
    """Its named volumes that are not part of it, with who else has them, for people."""
    named = [said for key, said in plan if key == preparation.VOLUME]
    pairs = [(volume, sharers(container, volume)) for volume in named]
    return [
        f"volume {volume}, which {', '.join(names)} has too" for volume, names in pairs if names
    ]


def sharers(container: Container, volume: str) -> list[str]:
    """The other containers that have a named volume."""
    return [
        other.name
        for other in _others(container)
        if any(pair == (preparation.VOLUME, volume) for pair in _plan_of(other))
    ]


def _others(container: Container) -> "Iterator[Container]":
    for name in sorted(os.listdir(STATE_ROOT)):
        if valid_name(name) and name != container.name:
            yield Container(name)


def _plan_of(container: Container) -> Plan:
    try:
        return preparation.read(container.planned_path)
    except (RecordError, OSError):
        return []


def require_own(container: Container, place: Place) -> None:
    """It can be replaced as a whole, and nobody else would lose it. Raises TorporError."""
    if place.kind == ROOTFS:
        _require_own_rootfs(container, place.path)
    elif os.path.dirname(place.path) == volumes.STORE:
        volume = os.path.basename(place.path)
        if names := sharers(container, volume):
            raise TorporError(
                f"the volume {volume} is that of {', '.join(names)} too by now: it cannot go back "
                "in time for one of them",
                "give each a volume of its own",
            )


def _require_own_rootfs(container: Container, rootfs: str) -> None:
    for other in _others(container):
        inputs = last_rendering.load(other)
        if inputs and inputs.image is None and os.path.realpath(inputs.rootfs) == rootfs:
            raise TorporError(
                f"{rootfs} is the root file system of {other.name} too: it cannot go back in time "
                "for one of them",
                f"write image: {rootfs} instead of rootfs:, and each has its own files over it",
            )
    if os.path.ismount(rootfs):
        raise TorporError(
            f"{rootfs} is a mount point, which cannot be replaced by a copy of another time",
            "use a directory below it",
        )
    if inner := mounts.below(rootfs):
        raise TorporError(
            f"{inner[0]} is mounted in the root file system {rootfs}, and cannot go back in time",
            "mount it with mounts: in the definition instead",
        )


def write(path: str, places: list[Place]) -> None:
    """Record which they are; not yet durably. Raises TorporError."""
    for place in places:
        preparation.value(place.path)
    record.replace(path, record.serialize(_FORM, [(one.kind, one.path) for one in places]))


def read(path: str) -> list[Place]:
    """What write() has recorded. Raises RecordError."""
    text = record.read_bytes(path)
    if text is None:
        raise RecordError(f"{path} is missing")
    places = [Place(kind, where) for kind, where in record.parse(text, _FORM, path)]
    if any(place.kind not in _KINDS for place in places):
        raise RecordError(f"{path}: names places of an unknown kind")
    return places


def copy(
    place: Place, source: str, target: str, progress: "Callable[[], None]", stall: "Stall"
) -> None:
    """Make target, which must not be there, a copy of source: a place, or a copy of one.

    Where the file system can, they share blocks until one changes. Nothing is synced. Raises
    CheckpointError, and what progress raises, which is called every second.
    """
    os.mkdir(target, 0o700)
    if place.kind == STORAGE:
        os.mkdir(place.tree(target), 0o700)
        text = record.read_bytes(f"{source}/{_IMAGE}", _IMAGE_MAX_BYTES)
        if text is not None:
            record.replace(f"{target}/{_IMAGE}", text)
    _copy_tree(place.tree(source), place.tree(target), progress, stall)


def _copy_tree(source: str, target: str, progress: "Callable[[], None]", stall: "Stall") -> None:
    handle = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    device = os.stat(target).st_dev
    try:
        # As its standard input cp has the directory itself, whatever its name leads to by then.
        reason = program.watch(
            ["cp", "-a", "--one-file-system", "--reflink=auto", "--", "/proc/self/fd/0/.", target],
            progress,
            stall,
            sign=lambda: patience.disk_sign(device),
            stdin=handle,
            enclosure=Enclosure([handle], [target]),
        )
    finally:
        os.close(handle)
    if reason:
        raise CheckpointError(f"{source} cannot be copied to {target}: {reason}")


def sync(directory: str, progress: "Callable[[], None]", stall: "Stall") -> None:
    """Have what was copied there on its disk; as copy(). Raises CheckpointError."""
    device = os.stat(directory).st_dev
    argv = ["sync", "--file-system", directory]
    reason = program.watch(argv, progress, stall, sign=lambda: patience.disk_sign(device))
    if reason:
        raise CheckpointError(f"{directory} could not be synced to its disk: {reason}")


def size_bytes(directory: str) -> int:
    """What is below a directory takes on disk, as du(1) counts; 0 where that is not known."""
    from torpor import process

    argv = ["du", "--summarize", "--one-file-system", "--block-size=1", "--", directory]
    status, text = process.output(argv, timeout_s=_DU_TIMEOUT_S)
    digits = text.partition("\t")[0]
    return int(digits) if not status and record.is_number(digits) else 0
