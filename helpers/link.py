"""A torpor on another host, spoken to through ssh: JSON on lines, and an archive in frames."""

import json
import os
from collections.abc import Callable
from typing import Any

from torpor import frames, json_shape, process, strict_json
from torpor.errors import TorporError
from torpor.json_shape import ShapeError
from torpor.record import write_all

_SSH = ("ssh", "-T", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
_REMOTE = ("torpor", "receive")
_LINE_MAX_BYTES = 1 << 16
_END_S = 30.0

# What is said, by whom receives ...
COME = "come"  # it can go on here; "doubts" is a list of warnings
GOT = "got"  # that round
PREPARED = "prepared"  # all of it is on the disk, and becomes a container when it is told to
HERE = "here"  # it is one
AWAKE = "awake"
ASLEEP = "asleep"  # it is here, but does not run; "problem" may tell why
FRESH = "fresh"  # it runs, but without its memory, which could not be restored and is kept aside
LACKS = "lacks"  # it is not here, and will not be by that move
NO = "no"  # "problem" and "hint" tell why
# ... and by whom sends.
TAKE = "take"
ROUND = "round"  # memory that is copied while the container runs, as an archive in frames
ARCHIVE = "archive"
OUTCOME = "outcome"
SETTLE = "settle"

Message = dict[str, Any]


class LinkError(TorporError):
    """The connection was cut off: what the other host did last is not known."""


def is_host(text: str) -> bool:
    """Whether ssh takes it for a host, and nothing else."""
    return bool(text) and not text.startswith("-") and text.isprintable() and " " not in text


class Link:
    """A connection, as long as this context lasts."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._ssh: process.Child | None = None

    def __enter__(self) -> "Link":
        theirs, self._out = os.pipe()
        self._in, ours = os.pipe()
        try:
            self._ssh = process.spawn([*_SSH, "--", self.host, *_REMOTE], stdin=theirs, stdout=ours)
        except FileNotFoundError as error:
            raise TorporError("ssh is not installed", "apt install openssh-client") from error
        finally:
            os.close(theirs)
            os.close(ours)
        return self

    def __exit__(self, *_: object) -> None:
        self._close_out()
        os.close(self._in)
        if self._ssh is not None and self._ssh.wait(_END_S) is None:
            self._ssh.kill()

    def _close_out(self) -> None:
        if self._out >= 0:
            os.close(self._out)
            self._out = -1

    def tell(self, what: str, content: bytes = b"") -> None:
        """Say a word, and what belongs to it on a line of its own. Raises LinkError."""
        try:
            write_all(self._out, what.encode() + b"\n" + (content and content + b"\n"))
        except OSError as error:
            raise self._cut_off() from error

    def send(self, source: int) -> process.Child:
        """A process that sends what can be read from source, in frames.

        Ends with 0 when all was sent.
        """
        return pumping(lambda: frames.send(source, self._out), keep=(source, self._out))

    def hear(self, *wanted: str) -> Message:
        """The next answer, which is one of these. Raises LinkError, and TorporError for a no."""
        line = frames.read_line(self._in, _LINE_MAX_BYTES)
        if not line:
            raise self._cut_off()
        said = parse(line, self.host)
        if said["say"] == NO:
            raise TorporError(f"{self.host}: {said['problem']}", said["hint"])
        if said["say"] not in wanted:
            raise LinkError(f"{self.host} said {said['say']!a} instead of {' or '.join(wanted)}")
        return said

    def _cut_off(self) -> LinkError:
        self._close_out()
        status = self._ssh.wait(_END_S) if self._ssh else None
        words = {127: "is torpor installed there?", 255: "ssh could not get there, or was cut off"}
        return LinkError(
            f"{self.host} does not answer (ssh ended with {status})",
            words.get(status or 0, f"try: ssh {self.host} torpor doctor"),
        )


def parse(line: bytes, host: str) -> Message:
    """An answer. Raises LinkError for what is none."""
    try:
        said = json_shape.an_object(strict_json.parse(line), "it")
        return {
            "say": json_shape.a_text(said.get("say"), "say"),
            "problem": json_shape.a_text(said.get("problem"), "problem"),
            "hint": json_shape.a_text(said.get("hint"), "hint"),
            "doubts": json_shape.texts(said, "doubts"),
        }
    except (ValueError, ShapeError) as error:
        words = ascii(line[:80].decode("ascii", "replace"))
        raise LinkError(
            f"{host} said {words}, which is no answer of torpor's",
            "does a file of its shell print something?",
        ) from error


def answer(say: str, **more: object) -> None:
    """Say it on standard output."""
    write_all(1, json.dumps({"say": say, **more}).encode("ascii") + b"\n")


def pumping(work: Callable[[], None], *, keep: tuple[int, ...]) -> process.Child:
    """A process that does this work and ends: with 0 if that raised no OSError.

    Of files it has the standard ones and those to keep.
    """
    child = os.fork()
    if child:
        return process.Child(child)
    status = 1
    try:
        kept = sorted({0, 1, 2, *keep})
        for low, high in zip(kept, [*kept[1:], 1 << 20], strict=True):
            os.closerange(low + 1, high)
        work()
        status = 0
    except OSError:
        pass
    finally:
        os._exit(status)
