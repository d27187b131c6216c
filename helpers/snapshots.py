"""Snapshots: generations of a container that ran on, each with its files of the same moment.

``snapshots/N/`` is what a generation is, and beside that ``places``, which files of the container
are in it, and ``files/``, a copy of each. Its number is a generation's too. Without its manifest,
which comes last, it is nothing: what a snapshot that was cut off has left.
"""

import os

from torpor import atomic_directory, images, mounts, record
from torpor.container import Container
from torpor.errors import ImageError, RecordError
from torpor.images import Generation, Manifest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FILES_BYTES = "files-bytes"  # a fact of the manifest: what the files took on disk when copied
BURST, INTERVAL_S = 3, 3600.0
_ROLLBACKS = "rollbacks"


class Snapshot(Generation):
    """The directory of one snapshot."""

    __slots__ = ()

    def __init__(self, container: Container, number: int) -> None:
        self.number = number
        self.path = container.snapshot_dir(number)

    @property
    def files(self) -> str:
        """Copies of the places, by their numbers."""
        return f"{self.path}/files"

    def make(self) -> None:
        super().make()
        os.mkdir(self.files, 0o700)


class Known:
    """A whole snapshot, as its manifest tells."""

    __slots__ = ("manifest", "snapshot")

    def __init__(self, snapshot: Snapshot, manifest: Manifest) -> None:
        self.snapshot = snapshot
        self.manifest = manifest

    @property
    def number(self) -> int:
        return self.snapshot.number

    @property
    def taken_s(self) -> float:
        """UNIX time."""
        return record.seconds(self.manifest.facts.get("taken", "0"))

    @property
    def files_bytes(self) -> int:
        return record.number(self.manifest.facts.get(FILES_BYTES, "0"))

    @property
    def size_bytes(self) -> int:
        """What memory and files take on disk; less where files are shared with the container's."""
        return self.manifest.size_bytes + self.files_bytes


def known(container: Container) -> list[Known]:
    """The snapshots that are whole, oldest first."""
    found = []
    for number in images.numbers(container.snapshots_dir):
        try:
            found.append(load(container, number))
        except (ImageError, ValueError, OSError):
            continue
    return found


def load(container: Container, number: int) -> Known:
    """One of them. Raises ImageError."""
    snapshot = Snapshot(container, number)
    if not os.path.lexists(snapshot.manifest):
        raise ImageError(
            f"{container.name} has no snapshot {number}", f"see: torpor status {container.name}"
        )
    return Known(snapshot, images.read_manifest(container, snapshot))


def surplus(sizes: "Sequence[tuple[int, int]]", keep: int, max_bytes: int) -> list[int]:
    """Which of (number, size in bytes), oldest first, are to go; never the newest.

    At most keep stay, and no more than max_bytes altogether; 0 is no limit.
    """
    total = sum(size for _, size in sizes)
    going = []
    for at, (number, size) in enumerate(sizes[:-1]):
        if len(sizes) - at <= keep and (not max_bytes or total <= max_bytes):
            break
        going.append(number)
        total -= size
    return going


def void_surplus(container: Container, keep: int, max_bytes: int) -> list[int]:
    """Void what retention does not hold, for sweep() to remove; returns the numbers."""
    sizes = [(one.number, one.size_bytes) for one in known(container)]
    going = surplus(sizes, keep, max_bytes)
    for number in going:
        record.remove_durably(Snapshot(container, number).manifest)
    return going


def remove(snapshot: Snapshot, rm: "Callable[[str], str]" = atomic_directory.remove) -> str:
    """Remove one: first what makes it whole. Empty, or why some of it stays.

    rm removes a tree whose content is not trusted, and says the same.
    """
    if os.path.lexists(snapshot.manifest):
        record.remove_durably(snapshot.manifest)
    if not mounts.detach_below(snapshot.path):  # a killed CRIU's, see images.remove
        return f"something is mounted below {snapshot.path}"
    return rm(snapshot.path)


def sweep(container: Container, rm: "Callable[[str], str]" = atomic_directory.remove) -> None:
    """Remove what is void, and what was cut off has left; no snapshot may be under way."""
    for number in images.numbers(container.snapshots_dir):
        snapshot = Snapshot(container, number)
        if not os.path.lexists(snapshot.manifest):
            remove(snapshot, rm)


def answers(container: Container) -> list[tuple[int, float]]:
    """Which snapshots have answered crashes, and when (UNIX time); nothing where that is lost."""
    try:
        text = record.read_bytes(container.rollbacks_path)
        pairs = record.parse(text, _ROLLBACKS, container.rollbacks_path) if text else []
        return [(record.number(key), record.seconds(value)) for key, value in pairs]
    except (ValueError, RecordError):
        return []


def may_answer(past: "Sequence[tuple[int, float]]", number: int, now_s: float) -> bool:
    """Whether a crash may be answered by this one again: the crash may be its own work."""
    recent = [at_s for other, at_s in past if other == number and now_s - at_s < INTERVAL_S]
    return len(recent) < BURST


def note_answer(container: Container, number: int, now_s: float) -> None:
    """Record durably, before it is done, that a crash is answered."""
    recent = [(one, at_s) for one, at_s in answers(container) if now_s - at_s < INTERVAL_S]
    pairs = [(str(one), f"{at_s:.6f}") for one, at_s in [*recent, (number, now_s)]]
    record.write_durably(container.rollbacks_path, record.serialize(_ROLLBACKS, pairs))
