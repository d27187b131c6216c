"""Damages the images of a generation in many ways, and has torpor look at each.

    python3 look_damage.py GENERATION

runs inside a machine. What is looked at is a copy with one file that is cut off, flipped, emptied,
missing or no file at all. Prints how many were read and refused, and what was neither, as JSON.
"""

import dataclasses
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from torpor import comparison, images, inspection
from torpor.comparison import Side
from torpor.container import Container
from torpor.errors import TorporError
from torpor.images import Generation

Damage = Callable[[Path], object]

_FLIPS = 12
_LARGE_BYTES = 1 << 20  # of pages, whose content is nobody's concern
_MESSAGE_MAX = 1000


def instead(make: Damage) -> Damage:
    def exchange(copy: Path) -> None:
        copy.unlink()
        make(copy)

    return exchange


def damages(path: Path, chance: random.Random) -> Iterator[Damage]:
    """What is done to a file."""
    content = path.read_bytes()

    def flip(at: int) -> Damage:
        spoilt = bytearray(content)
        spoilt[at] ^= 1 << chance.randrange(8)
        return lambda copy: copy.write_bytes(spoilt)

    yield lambda copy: copy.write_bytes(b"")
    yield lambda copy: copy.write_bytes(content[: len(content) // 2])
    yield lambda copy: copy.write_bytes(content[:-1])
    yield lambda copy: copy.write_bytes(content[:8] + b"\xff\xff\xff\x7f" + content[12:])
    yield lambda copy: copy.write_bytes(chance.randbytes(len(content)))
    yield lambda copy: os.truncate(copy, 1 << 40)
    yield lambda copy: copy.unlink()
    yield instead(Path.mkdir)
    yield instead(os.mkfifo)
    yield instead(lambda copy: copy.symlink_to("/dev/zero"))
    for _ in range(_FLIPS if content else 0):
        yield flip(chance.randrange(len(content)))


def look(path: Path, sound: Side) -> bool:
    """Whether what is there can be read. Raises whatever is no fault of the images."""
    generation = Generation(Container("web"), 1, str(path))
    try:
        manifest = images.parse_manifest(Path(generation.manifest).read_bytes(), "manifest")
        found = inspection.of(generation, manifest)
        json.dumps(dataclasses.asdict(found))
        comparison.between(sound, Side(generation.images, found))
    except (TorporError, OSError) as error:
        message = str(error)
        assert message and "\n" not in message and len(message) < _MESSAGE_MAX, message
        return False
    return True


def spoilt(sound: Path, file: Path, damage: Damage, work: Path) -> Path:
    """The generation with one file damaged; the others are the same ones."""
    copy = work / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(sound, copy, copy_function=os.link)
    target = copy / file.relative_to(sound)
    target.unlink()
    shutil.copy(file, target)
    damage(target)
    return copy


def main() -> None:
    sound = Path(sys.argv[1])
    chance = random.Random(1)
    generation = Generation(Container("web"), 1, str(sound))
    manifest = images.parse_manifest((sound / "manifest").read_bytes(), "manifest")
    side = Side(generation.images, inspection.of(generation, manifest))
    found = {"read": 0, "refused": 0}
    faults = []
    with tempfile.TemporaryDirectory(dir=sound.parent) as work:
        for file in sorted((sound / "checkpoint").iterdir()):
            if file.stat().st_size > _LARGE_BYTES:
                continue
            for number, damage in enumerate(damages(file, chance)):
                copy = spoilt(sound, file, damage, Path(work))
                try:
                    found["read" if look(copy, side) else "refused"] += 1
                except Exception as error:
                    faults.append(f"{file.name}, damage {number}: {error!r}")
    json.dump({**found, "faults": faults}, sys.stdout)


if __name__ == "__main__":
    main()
