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
from torpor.images import Generation

_DIRECTORY = "ahead"
LINK = "parent"  # CR_PARENT_LINK of CRIU
_FORM = "ahead"


def rounds(place: str) -> list[int]:
    """Those in a directory, the first first."""
    return images.numbers(place)


def in_generation(generation: Generation) -> str:
    return f"{generation.path}/{_DIRECTORY}"


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
    numbers = rounds(container.ahead_dir)
    if not numbers or said != record.serialize(_FORM, [("init", _identity(pid))]):
        return ""
    place = in_generation(generation)
    os.rename(container.ahead_dir, place)
    return f"../{_DIRECTORY}/{numbers[-1]}"


def _identity(pid: int) -> str:
    """Tells a process from any other of this boot (proc_pid_stat(5))."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(") ")[2].split()
    return f"{pid} {fields[19]}"


def link(place: str) -> None:
    """Link each round to the one before."""
    for before, number in zip(rounds(place), rounds(place)[1:], strict=False):
        os.symlink(f"../{before}", f"{place}/{number}/{LINK}")


def link_images(generation: Generation) -> None:
    numbers = rounds(in_generation(generation))
    if numbers:
        os.symlink(f"../{_DIRECTORY}/{numbers[-1]}", f"{generation.images}/{LINK}")


def require_linked(generation: Generation) -> None:
    """That CRIU finds the rounds, and nothing else. Raises ImageError."""
    place = in_generation(generation)
    numbers = rounds(place)
    wanted = {f"{place}/{number}": f"../{number - 1}" for number in numbers[1:]}
    if numbers != [*range(1, len(numbers) + 1)]:
        raise ImageError(f"{place}: a round is missing")
    wanted |= {generation.images: f"../{_DIRECTORY}/{len(numbers)}"} if numbers else {}
    for directory in (generation.images, *(f"{place}/{number}" for number in numbers)):
        if _target(f"{directory}/{LINK}") != wanted.get(directory, ""):
            raise ImageError(f"{directory}/{LINK} does not lead to the round before")


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""
    except OSError:
        return "?"  # it is no link
