"""A container that leaves this host for another: what is known of that on its disk.

The other host has all of it on its disk, but makes a container of it only when it is told to.
Before that LEAVING is recorded here, durably; from then on a start is refused until it is known
whether it arrived. So at no time both may start it, and at no time neither has its memory.
"""

from dataclasses import dataclass

from torpor import events, fault, images, networking, record, state
from torpor.container import Container
from torpor.errors import RecordError, TorporError
from torpor.state import State
from torpor.talk import warn

_FORM = "leaving"


@dataclass(frozen=True)
class Leaving:
    """To where, what both hosts call it, and whether it ran before."""

    host: str
    token: str
    ran: bool


def begin(container: Container, leaving: Leaving) -> None:
    """From now on it is not started here. Raises TorporError where it does not sleep."""
    current = state.read(container)
    if current.name != state.READY:
        raise TorporError(f"{container.name} does not sleep any more: {current.reason}")
    pairs = [
        ("host", leaving.host),
        ("token", leaving.token),
        ("ran", "yes" if leaving.ran else ""),
    ]
    record.write_durably(container.leaving_path, record.serialize(_FORM, pairs))
    away = current.become(state.LEAVING, f"moving to {leaving.host}", frozen_s=current.frozen_s)
    state.write(container, away)
    fault.point("leaving")
    warn(container.name, networking.withdraw(container))  # who has its address is there by now


def load(container: Container) -> Leaving:
    """Raises RecordError."""
    path = container.leaving_path
    text = record.read_bytes(path)
    if text is None:
        raise RecordError(f"{path} is missing")
    said = dict(record.parse(text, _FORM, path))
    try:
        return Leaving(said["host"], said["token"], bool(said["ran"]))
    except KeyError as error:
        raise RecordError(f"{path} lacks {error}") from error


def stay(container: Container, why: str) -> None:
    """It did not arrive, nor will it: it sleeps here as before."""
    current = state.read(container)
    state.write(container, current.become(state.READY, why, frozen_s=current.frozen_s))
    record.remove_durably(container.leaving_path)


def go(container: Container, host: str) -> None:
    """It arrived: its memory is forgotten here, and a start is refused until somebody decides."""
    moved = state.read(container).become(state.MOVED, f"moved to {host}")
    state.write(container, moved)
    fault.point("moved")
    events.note(events.MOVED, container, moved.reason, generation=moved.generation)
    warn(container.name, networking.leave(container))
    for number in images.generations(container):
        images.remove(container.generation_dir(number))
    record.remove_durably(container.leaving_path)


def refusal(container: Container, current: State) -> TorporError:
    """Why it is not started here."""
    if current.name == state.MOVED:
        return TorporError(
            f"it {current.reason}",
            "what it wrote here is older than what it has there; to start it here all the same, "
            f"fresh: torpor discard {container.name}",
        )
    return TorporError(
        f"it was {current.reason} when that was cut off, and may be there",
        f"find out, and go on by that: torpor migrate --again {container.name}\n"
        f"if that host is gone for good: torpor migrate --stay {container.name}",
    )
