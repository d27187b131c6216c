"""An archive becomes a container: its definition and its state directory, both or neither."""

import os

from torpor import atomic_directory, events, fault, networking, record, state
from torpor.archive import Reader
from torpor.arrival import Arrival, Arriving
from torpor.container import Container
from torpor.errors import RecordError, TorporError
from torpor.progress import Progress
from torpor.systemd import Unit
from torpor.talk import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def require_free(container: Container, *, replaces: bool = False, comes_back: bool = False) -> None:
    """That nothing is lost when a container of this name comes. Raises TorporError.

    comes_back: one that moved away from here may, as what is left of it is older.
    """
    places = (container.definition_path, container.state_dir)
    there = next(filter(os.path.lexists, places), None)
    if there is None:
        return
    known = _state_name(container)
    if known == state.LEAVING:
        raise TorporError(
            f"{container.name} is leaving this host: nobody knows yet whether it arrived",
            f"see: torpor status {container.name}",
        )
    if not (replaces or (comes_back and known == state.MOVED)):
        raise TorporError(
            f"there is a container {container.name} already: {there}",
            "import it under another name: NAME after FILE; or in its place: --replace",
        )
    if not Unit(container).is_down:
        raise TorporError(
            f"{container.name} is running", f"stop it first: torpor stop --fresh {container.name}"
        )


def _state_name(container: Container) -> str:
    try:
        return state.read(container).name
    except RecordError:
        return ""


def land(
    arrival: Arrival,
    container: Container,
    reader: Reader,
    *,
    token: str = "",
    agree: "Callable[[], None]" = lambda: None,
) -> None:
    """Make it, durably, under the container's lock. Raises what arriving raises.

    token is what another host calls its move. agree is called when all of it is on the disk; what
    it raises leaves everything as it was.
    """
    with Progress(container.name, _size_bytes(reader)) as progress:
        reader.progress = progress.advance
        with _Place(container, token) as place:
            atomic_directory.replace(
                container.state_dir, lambda new: place.take(arrival, new), agree
            )
            place.define(arrival.text)
    events.note(events.ARRIVED, container, "it arrived, and sleeps")
    warn(container.name, [*arrival.warnings, *networking.leave(container)])


def _size_bytes(reader: Reader) -> int:
    said = reader.header.get("size", "")
    return record.number(said) if record.is_number(said) else 0


def has_arrived(container: Container, token: str) -> bool:
    """Whether it came here by a move that another host calls so; completes one that was cut off.

    Under the container's lock: whoever receives it holds that until it is here, or will never be.
    """
    try:
        if record.read_bytes(container.arrived_path) != token.encode():
            return False
    except OSError:
        return False
    if (text := record.read_bytes(Arriving(container.name).definition_path)) is not None:
        _Place(container).define(text)
    return True


class _Place:
    """The definition's file, which is changed beside the state directory.

    Neither may meet one of another container: a start would find that the definition changed, and
    forget the memory. So there is none while the directories change.
    """

    def __init__(self, container: Container, token: str = "") -> None:
        self._path = container.definition_path
        self._aside = f"{self._path}.old"
        self._container = container
        self._token = token
        self._inode = 0

    def take(self, arrival: Arrival, new: str) -> None:
        arrival.fill(new)
        if self._token:
            name = os.path.basename(self._container.arrived_path)
            record.replace(f"{new}/{name}", self._token.encode())
        self._inode = os.stat(new).st_ino
        if os.path.lexists(self._path):
            os.rename(self._path, self._aside)
            record.sync_directory(os.path.dirname(self._path))

    def define(self, text: bytes) -> None:
        fault.point("landed")
        record.make_directory(os.path.dirname(self._path), 0o755)
        record.write_durably(self._path, text, "definition")
        record.remove_durably(self._aside)
        record.remove_durably(Arriving(self._container.name).definition_path)

    def __enter__(self) -> "_Place":
        return self

    def __exit__(self, *_: object) -> None:
        """Where the state directory is the old one after all, so is its definition."""
        if os.path.lexists(self._aside) and not self._has_changed():
            os.rename(self._aside, self._path)

    def _has_changed(self) -> bool:
        try:
            return os.stat(self._container.state_dir).st_ino == self._inode
        except FileNotFoundError:
            return False
