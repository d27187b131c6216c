"""Take a container that another host moves here: torpor migrate calls this there, through ssh.

On standard input: "take", an offer, its archive in frames, and "settle" when it is to become a
container; or "outcome" and what the move is called. The answers are those of link.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager

from torpor import (
    archive,
    frames,
    images,
    landing,
    link,
    offer,
    process,
    record,
    strict_json,
    welcome,
)
from torpor.archive import Reader
from torpor.arrival import Arrival, Wishes
from torpor.container import STATE_ROOT, Container
from torpor.errors import TorporError
from torpor.json_shape import ShapeError, a_text, an_object
from torpor.lock import Lock
from torpor.offer import Offer
from torpor.receiving import receive_file

_WORD_MAX_BYTES = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # all is said on standard input


def run(options: argparse.Namespace) -> int:
    del options
    if os.isatty(0):
        raise TorporError("this is what torpor migrate calls, and nothing for a terminal")
    try:
        _serve()
    except (TorporError, OSError) as error:
        link.answer(link.NO, problem=str(error), hint=getattr(error, "hint", ""))
        return 1
    return 0


def _serve() -> None:
    what = _word()
    content = frames.read_line(0, offer.MAX_BYTES)
    if what == link.TAKE:
        _take(offer.parse(content))
    elif what == link.OUTCOME:
        _tell_outcome(content)
    else:
        raise TorporError(f"{what[:40]!a} is not known", "is the same torpor on both hosts?")


def _take(offered: Offer) -> None:
    container = Container(offered.name)
    with Lock(container, wait=False):
        link.answer(link.COME, doubts=welcome.judge(offered))
        with _Rounds(container) as rounds:
            while (what := _word()) == link.ROUND:
                rounds.receive()
                link.answer(link.GOT)
            if what != link.ARCHIVE:
                raise TorporError("the other host did not go on")
            _land(container, offered, rounds.directory)
    link.answer(link.HERE)
    if offered.enables:
        _systemctl("enable", "--quiet", container.unit)
    if offered.starts:
        _wake(container)
    else:
        link.answer(link.ASLEEP)


def _wake(container: Container) -> None:
    journal = f"journalctl --unit={container.unit}"
    if status := _systemctl("start", container.unit):
        problem = f"systemctl start ended with {status}: see {journal}"
        link.answer(link.ASLEEP, problem=problem)
    elif os.path.isdir(aside := os.path.dirname(container.aside_dir(0))):
        link.answer(link.FRESH, problem=f"its images are in {aside}: see {journal}")
    else:
        link.answer(link.AWAKE)


def _word() -> str:
    return frames.read_line(0, _WORD_MAX_BYTES).decode("ascii", "replace")


class _Rounds:
    """Memory that comes while the container still runs there; gone with this context."""

    def __init__(self, container: Container) -> None:
        self._place = f"{STATE_ROOT}/.arriving/{container.name}"
        self._number = 0

    @property
    def directory(self) -> str:
        """Empty where none came."""
        return self._place if self._number else ""

    def __enter__(self) -> "_Rounds":
        images.remove(self._place)  # of one that was cut off
        return self

    def __exit__(self, *_: object) -> None:
        images.remove(self._place)

    def receive(self) -> None:
        """Raises TorporError."""
        self._number += 1
        place = f"{self._place}/{self._number}"
        record.make_directory(place)
        with _framed() as (source, _), Reader(source, "a round") as reader:
            if reader.header.get("round") != str(self._number):
                raise TorporError(f"what comes is not round {self._number}")
            for member in reader.members():
                if os.path.dirname(member.path) != archive.IMAGES or member.is_directory:
                    continue
                receive_file(member, f"{place}/{os.path.basename(member.path)}")


@contextmanager
def _framed() -> Iterator[tuple[int, process.Child]]:
    """What comes in frames, to be read from a descriptor, and who takes it out of them."""
    source, target = os.pipe()
    pump = link.pumping(lambda: frames.receive(0, target), keep=(target,))
    os.close(target)
    try:
        yield source, pump
        if pump.wait():
            raise TorporError("not all of it came")
    finally:
        os.close(source)
        pump.kill()


def _land(container: Container, offered: Offer, ahead: str) -> None:
    wishes = Wishes(
        offered.image or None, offered.rootfs or None, trusts=True, is_moved=True, ahead=ahead
    )
    with _framed() as (source, pump), Reader(source, "what comes") as reader:
        arrival = Arrival(container, reader, wishes)
        _require_same(reader, offered)
        landing.land(arrival, container, reader, token=offered.token, agree=lambda: _agree(pump))


def _require_same(reader: Reader, offered: Offer) -> None:
    if reader.header.get("name") != offered.name:
        raise TorporError(f"what comes is not {offered.name}, which was offered")


def _agree(pump: process.Child) -> None:
    """It is for the other host to decide: from then on it does not start it any more."""
    if pump.wait():
        raise TorporError("not all of it came")
    link.answer(link.PREPARED)
    if _word() != link.SETTLE:
        raise TorporError("the other host did not go on")


def _systemctl(*words: str) -> int:
    """Its exit status; it may say on standard error what people are to know."""
    return process.spawn(["systemctl", *words], stdout=2).wait() or 0


def _tell_outcome(content: bytes) -> None:
    try:
        said = an_object(strict_json.parse(content), "it")
        container = Container(a_text(said.get("name"), "name"))
        token = a_text(said.get("token"), "token")
    except (ValueError, ShapeError) as error:
        raise TorporError(f"which move is meant cannot be read: {error}") from error
    with Lock(container):
        arrived = bool(token) and landing.has_arrived(container, token)
    link.answer(link.HERE if arrived else link.LACKS)
