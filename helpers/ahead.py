"""Memory that is copied while its container runs, so that less is left to do while it stands still.

Each round has what was written since the one before, in a directory of CRIU's images with a link
to that (pre-dump in criu(8)); the images of the dump that follows link to the last. In a generation
the rounds are "ahead/1", "ahead/2" ...: CRIU finds them by the links, which are looked at before it
goes by them.
"""

import os

from torpor import images, record
from torpor.container import Container
from torpor.errors import ImageError
from torpor.images import AHEAD, PARENT, Generation
from torpor.process import read_small

_FORM = "ahead"


def adopt(place: str, generation: Generation) -> str:
    """Move the rounds at a place into a generation; the last one's path from its images.

    Empty where there are none.
    """
    numbers = images.numbers(place)
    if not numbers:
        return ""
    os.rename(place, f"{generation.path}/{AHEAD}")
    return f"../{AHEAD}/{numbers[-1]}"


def offer(container: Container, pid: int) -> None:
    """Let the next dump of the container whose init is pid begin with the rounds there are."""
    said = record.serialize(_FORM, [("init", _identity(pid))])
    record.replace(container.ahead_path, said)


def take(container: Container, generation: Generation, pid: int) -> str:
    """Move them to a generation that is to be dumped; the last one's path from its images.

    Empty where there are none, or they are of an earlier init.
    """
    said = record.read_bytes(container.ahead_path)
    if said is None:
        return ""
    os.unlink(container.ahead_path)
    if said != record.serialize(_FORM, [("init", _identity(pid))]):
        return ""
    return adopt(container.ahead_dir, generation)


def _identity(pid: int) -> str:
    """Tells a process from any other of this boot (proc_pid_stat(5))."""
    started = read_small(f"/proc/{pid}/stat").rpartition(") ")[2].split()[19:20]
    return f"{pid} {''.join(started)}"


def link(generation: Generation) -> None:
    """Link its images to the rounds, as CRIU does on the host where it makes them."""
    for directory, target in _links(generation).items():
        if target:
            os.symlink(target, f"{directory}/{PARENT}")


def require_linked(generation: Generation) -> None:
    """That CRIU finds the rounds, and nothing else. Raises ImageError."""
    for directory, target in _links(generation).items():
        if _target(f"{directory}/{PARENT}") != target:
            raise ImageError(f"{directory}/{PARENT} does not lead to the round before")


def _links(generation: Generation) -> dict[str, str]:
    """Where each directory of its images is to lead, empty where nowhere. Raises ImageError."""
    rounds = generation.rounds()
    if rounds != [f"{generation.path}/{AHEAD}/{at}" for at in range(1, len(rounds) + 1)]:
        raise ImageError(f"{generation.path}/{AHEAD}: a round is missing")
    before = [f"../{at}" if at else "" for at in range(len(rounds))]
    last = f"../{AHEAD}/{len(rounds)}" if rounds else ""
    return {generation.images: last, **dict(zip(rounds, before, strict=True))}


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""
    except OSError:
        return "?"  # it is no link
