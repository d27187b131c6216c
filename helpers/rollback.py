"""Going back to a snapshot: its files take the place of the container's, then its memory can wake.

The snapshot stays as it is, to be gone back to again: what wakes is a generation of its own, made
of links to the snapshot's images, and what it runs on are copies of the snapshot's files.

Nothing of the container changes while these are made, beside their places. Then REPLACING is
recorded: from there on whoever comes next goes on, until each place has the files of that moment,
and only then the generation is READY. The files of before stay beside them until a wake succeeded.
"""

import errno
import os

from torpor import (
    atomic_directory,
    capture,
    fault,
    images,
    last_rendering,
    overlay,
    patience,
    preparation,
    program,
    record,
    rootfs,
    snapshots,
    state,
)
from torpor.capture import Place
from torpor.container import Container
from torpor.errors import RecordError, TorporError
from torpor.images import Generation, Manifest, Verification
from torpor.last_rendering import Inputs
from torpor.patience import Patience, Stall
from torpor.snapshots import Known
from torpor.state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_COPY_TIMEOUT_S = 3600.0
_FORM = "rollback"
_GENERATION, _SNAPSHOT, _PLACE = "generation", "snapshot", "place"


class _Move:
    """One place, and what is beside it meanwhile."""

    __slots__ = ("before", "new", "path")

    def __init__(self, path: str, beside: str) -> None:
        self.path = path
        self.new = f"{beside}.new-files"
        self.before = f"{beside}.before"

    @property
    def is_new_there(self) -> bool:
        return os.path.lexists(self.new)

    @property
    def has_begun(self) -> bool:
        return os.path.lexists(self.before)

    def run(self) -> None:
        """Repeatable, however far it came."""
        if not self.is_new_there:
            return
        name = os.path.basename(self.path)
        if not self.has_begun and os.path.lexists(self.path):
            _rename(self.path, self.before, f"old-{name}")
        _rename(self.new, self.path, f"new-{name}")


def _rename(source: str, target: str, step: str) -> None:
    fault.before(step)
    os.rename(source, target)
    record.sync_directory(target.rpartition("/")[0])
    fault.after(step)


class _Pending:
    """What is being replaced, as its record says."""

    def __init__(self, container: Container, number: int, snapshot: int, paths: list[str]) -> None:
        self.number = number  # of the generation that wakes
        self.snapshot = snapshot
        self.moves = [
            _Move(path, f"{path.rpartition('/')[0]}/.torpor-{container.name}-{number}-{index}")
            for index, path in enumerate(paths)
        ]

    def serialize(self) -> bytes:
        pairs = [(_GENERATION, str(self.number)), (_SNAPSHOT, str(self.snapshot))]
        return record.serialize(_FORM, [*pairs, *((_PLACE, move.path) for move in self.moves)])


def _load(container: Container) -> _Pending | None:
    path = container.rollback_path
    text = record.read_bytes(path)
    if text is None:
        return None
    pairs = record.parse(text, _FORM, path)
    said = dict(pairs)
    try:
        number, snapshot = (record.number(said[key]) for key in (_GENERATION, _SNAPSHOT))
    except (KeyError, ValueError) as error:
        raise RecordError(f"{path}: {error!r} in a rollback record") from error
    return _Pending(container, number, snapshot, [value for key, value in pairs if key == _PLACE])


def require_possible(container: Container, known: Known, inputs: Inputs) -> list[Place]:
    """The places of a snapshot that the container of today can go back to. Raises TorporError."""
    facts, number = known.manifest.facts, known.number
    if facts.get("inputs") != inputs.digest:
        raise TorporError(
            f"the definition changed after snapshot {number} was taken",
            "memory belongs to the definition that it ran under: put that back first",
        )
    if inputs.image is not None:
        image = inputs.image or rootfs.identity(inputs.rootfs)
        if facts.get("rootfs", "").rpartition("+")[0] != image:
            raise TorporError(
                f"snapshot {number} was taken over another image than {inputs.rootfs}",
                "put that image back first",
            )
    places = capture.read(known.snapshot.places)
    for place in places:
        if place.kind == capture.ROOTFS and place.path != os.path.realpath(inputs.rootfs):
            raise TorporError(
                f"snapshot {number} has the files of {place.path}, but its root file system is "
                f"{os.path.realpath(inputs.rootfs)} now",
                "put the link back first",
            )
        capture.require_own(container, place)
    return places


def go_back(
    container: Container,
    known: Known,
    inputs: Inputs,
    current: State,
    why: str,
    progress: "Callable[[], None]",
) -> State:
    """Put files and memory of a snapshot in place; the next start wakes from the state returned.

    The container must not run, and settle() has been called. progress is called every second.
    Raises TorporError, OSError: it is as it was then, or settle() completes it.
    """
    places = require_possible(container, known, inputs)
    tidy(container)
    number = images.next_number(container, current.generation)
    pending = _Pending(container, number, known.number, [place.path for place in places])
    record.write_durably(container.rollback_path, pending.serialize())
    try:
        facts = _prepare(container, known, inputs, places, pending, progress)
    except BaseException:
        _drop(container, pending)
        raise
    # What it runs on from then on: its next checkpoints go by that.
    replacing = current.become(
        state.REPLACING, why, generation=number, inputs=facts["inputs"], rootfs=facts["rootfs"]
    )
    state.write(container, replacing)
    return _finish(container, pending, replacing)


def _prepare(
    container: Container,
    known: Known,
    inputs: Inputs,
    places: list[Place],
    pending: _Pending,
    progress: "Callable[[], None]",
) -> dict[str, str]:
    """Make all that is to come, durably, without changing what is; what its manifest says."""
    snapshot, limit = known.snapshot, Patience(container, patience.STARTING)
    # A damaged one is found before anything of the container is touched.
    Verification(snapshot, known.manifest).verdict(progress, Stall(limit))
    for index, (place, move) in enumerate(zip(places, pending.moves, strict=True)):
        capture.copy(place, f"{snapshot.files}/{index}", move.new, progress, Stall(limit))
        if place.kind == capture.STORAGE:
            overlay.rebase(move.new)
        capture.sync(move.new, progress, Stall(limit))
        record.sync_directory(move.new.rpartition("/")[0])
    return _link(container, known, inputs, places, pending)


def _link(
    container: Container, known: Known, inputs: Inputs, places: list[Place], pending: _Pending
) -> dict[str, str]:
    """A generation of the snapshot's images, which nobody changes, nor does CRIU."""
    generation = Generation(container, pending.number)
    generation.make()
    files = {path: found for path, found in known.manifest.files.items() if path != "places"}
    _link_all(known, generation, files)
    facts = known.manifest.facts | {
        "generation": str(generation.number),
        "snapshot": str(known.number),
        "reason": f"snapshot {known.number}",
        "rootfs": _rootfs_identity(container, inputs, places, pending),
        "volumes": _volumes_identity(container, known, pending),
    }
    facts.pop(snapshots.FILES_BYTES, None)
    images.vouch(generation, Manifest(facts, files))
    return facts


def _link_all(known: Known, generation: Generation, files: "Iterable[str]") -> None:
    for path in files:
        source, target = f"{known.snapshot.path}/{path}", f"{generation.path}/{path}"
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            argv = ["cp", "-a", "--reflink=auto", "--", source, target]
            if reason := program.run(argv, timeout_s=_COPY_TIMEOUT_S):
                raise TorporError(f"{source} cannot be copied: {reason}") from error
            _sync_file(target)
    record.sync_directory(generation.images)


def _sync_file(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _rootfs_identity(
    container: Container, inputs: Inputs, places: list[Place], pending: _Pending
) -> str:
    """What last_rendering.rootfs_identity() says once all are in place."""
    for place, move in zip(places, pending.moves, strict=True):
        if place.kind == capture.STORAGE:
            return overlay.identity(container, inputs.rootfs, inputs.image or "", move.new)
        if place.kind == capture.ROOTFS:
            return rootfs.identity(move.new)
    return last_rendering.rootfs_identity(container, inputs)


def _volumes_identity(container: Container, known: Known, pending: _Pending) -> str:
    plan = preparation.read(known.snapshot.plan)
    new = {move.path: move.new for move in pending.moves}
    return preparation.durable_identity(container, plan, new)


def _finish(container: Container, pending: _Pending, replacing: State) -> State:
    for move in pending.moves:
        move.run()
    ready = replacing.become(state.READY, replacing.reason)
    state.write(container, ready)
    return ready


def settle(container: Container, current: State) -> State:
    """Complete a rollback that was cut off, or forget it if nothing of the container changed.

    The state that the container is in then. Raises RecordError, OSError.
    """
    pending = _load(container)
    if current.name == state.REPLACING:
        if pending is None or pending.number != current.generation:
            raise RecordError(
                f"{container.rollback_path} is gone, which says what was being replaced",
                f"look for .torpor-{container.name}-* beside its files; then: torpor discard "
                f"{container.name}",
            )
        return _finish(container, pending, current)
    if pending is None:
        return current
    if any(move.is_new_there for move in pending.moves):
        if any(move.has_begun for move in pending.moves):
            for move in pending.moves:  # the state was lost since, its files need not be
                move.run()
        else:
            _drop(container, pending)
    elif current.generation < pending.number:
        _drop(container, pending)
    return current


def _drop(container: Container, pending: _Pending) -> None:
    """Remove what was prepared; what cannot be removed now is found again later."""
    for move in pending.moves:
        atomic_directory.remove(move.new)
    images.remove(Generation(container, pending.number).path)
    record.remove_durably(container.rollback_path)


def tidy(container: Container) -> None:
    """Remove the files of before the last rollback: its memory is awake, or given up."""
    try:
        pending = _load(container)
    except RecordError:
        pending = None
    for move in pending.moves if pending else []:
        atomic_directory.remove(move.before)
    record.remove_durably(container.rollback_path)


def kept(container: Container) -> list[str]:
    """Where the files of before the last rollback are, as long as its memory has not woken."""
    try:
        pending = _load(container)
    except (TorporError, OSError):
        return []
    return [move.before for move in pending.moves if move.has_begun] if pending else []
