"""Coverage-guided fuzzing of one reader: an input that reaches a new place is a seed from then on.

It begins with the files of corpus/READER, and is the same in each run with the same seed
(TORPOR_FUZZ_SEED). A file that once was a fault stays in the corpus.
"""

import os
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

from fuzz import SCALE

CORPUS = Path(__file__).parent / "corpus"
_SEED = os.environ.get("TORPOR_FUZZ_SEED", "0")
_SOURCES = str(Path(__file__).parents[2] / "helpers")
_INPUT_MAX_BYTES = 64 << 10
_CHANGES_MAX = 5
# What readers are wrong about: ends of lines and texts, numbers, paths, escapes, depth.
_TOKENS = (
    *(
        b"\0",
        b"\n",
        b"\r",
        b"\t",
        b"\x1b[2J",
        b"\x0b",
        b"\x85",
        b"\xff",
        b"\xc2\xa0",
        b"\xed\xa0\x80",
    ),
    *(
        b"-",
        b"--",
        b"-1",
        b"0",
        b"1e999",
        b"NaN",
        b"99999999999999999999",
        b"9" * 5000,
        b"\xc2\xb2",
    ),
    *(
        b"..",
        b"/../",
        b"/",
        b"//",
        b"%",
        b"%n",
        b"=",
        b":",
        b",",
        b" ",
        b"'",
        b'"',
        b"\\",
        b"\\u0000",
    ),
    *(
        b"\\ud800",
        b"null",
        b"true",
        b"{}",
        b"[]",
        b'""',
        b"&a",
        b"*a",
        b"!!python/object:os.system",
    ),
    *(b"[" * 100, b"{" * 100, b'{"a":' * 100, b"(" * 100, b"[[[[]]]]", b"*", b"?", b"+", b"{9999}"),
)
_WORD = re.compile(rb"[A-Za-z0-9_./-]+")

Read = Callable[[bytes], None]
Trace = Callable[[FrameType, str, object], "Trace | None"]


class _Places:
    """The places in torpor that have been reached, each with the one before it."""

    def __init__(self) -> None:
        self._known: set[tuple[int, int, int]] = set()
        self._codes: dict[int, CodeType] = {}
        self._last = 0

    def reaches_new(self, read: Read, content: bytes) -> bool:
        before = len(self._known)
        tracer = sys.gettrace()
        sys.settrace(self._called)
        try:
            read(content)
        finally:
            sys.settrace(tracer)
        return len(self._known) > before

    def _called(self, frame: FrameType, event: str, _: object) -> Trace | None:
        if not frame.f_code.co_filename.startswith(_SOURCES):
            return None
        self._codes.setdefault(id(frame.f_code), frame.f_code)  # its id stays its own
        return self._lined

    def _lined(self, frame: FrameType, event: str, _: object) -> Trace | None:
        if event == "line":
            self._known.add((id(frame.f_code), self._last, frame.f_lineno))
            self._last = frame.f_lineno
        return self._lined


def seeds(reader: str) -> list[bytes]:
    """The files of its corpus."""
    return [path.read_bytes() for path in sorted((CORPUS / reader).iterdir())]


def fuzz(reader: str, read: Read, count: int) -> int:
    """Read count changed seeds, times TORPOR_FUZZ_SCALE; returns how many became seeds.

    read raises AssertionError for what is not as it should be: that tells the input, too.
    """
    chance = random.Random(f"{_SEED} {reader}")
    known = seeds(reader)
    places = _Places()
    for content in known:
        _read(places, read, content)
    before = len(known)
    words = [word for content in known for word in _WORD.findall(content)]
    for _ in range(count * SCALE):
        content = _changed(chance, known, words)
        if _read(places, read, content):
            known.append(content)
    return len(known) - before


def _read(places: _Places, read: Read, content: bytes) -> bool:
    try:
        return places.reaches_new(read, content)
    except Exception as error:
        shown = repr(content) if len(content) < 2000 else f"{content[:2000]!r} and so on"
        raise AssertionError(f"{type(error).__name__}: {error}\nit was given {shown}") from error


def _changed(chance: random.Random, known: list[bytes], words: list[bytes]) -> bytes:
    # The newest seeds are the least tried.
    recent = known[-8:] if chance.random() < 0.5 else known
    content = chance.choice(recent)
    for _ in range(chance.randint(1, _CHANGES_MAX)):
        content = chance.choice(_CHANGES)(chance, content, known, words)
    return content[:_INPUT_MAX_BYTES]


def _insert(chance: random.Random, content: bytes, known: list[bytes], words: list[bytes]) -> bytes:
    at = chance.randint(0, len(content))
    return content[:at] + chance.choice(_TOKENS) + content[at:]


def _replace(
    chance: random.Random, content: bytes, known: list[bytes], words: list[bytes]
) -> bytes:
    """A word becomes a token, or another word."""
    found = list(_WORD.finditer(content))
    if not found:
        return content
    word = chance.choice(found)
    other = chance.choice(_TOKENS if chance.random() < 0.6 or not words else words)
    return content[: word.start()] + other + content[word.end() :]


def _flip(chance: random.Random, content: bytes, known: list[bytes], words: list[bytes]) -> bytes:
    if not content:
        return content
    at = chance.randrange(len(content))
    return content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :]


def _cut(chance: random.Random, content: bytes, known: list[bytes], words: list[bytes]) -> bytes:
    first, last = sorted(chance.randint(0, len(content)) for _ in range(2))
    return content[:first] + content[last:]


def _repeat(chance: random.Random, content: bytes, known: list[bytes], words: list[bytes]) -> bytes:
    first, last = sorted(chance.randint(0, len(content)) for _ in range(2))
    return content[:last] + content[first:last] * chance.choice((1, 2, 30)) + content[last:]


def _splice(chance: random.Random, content: bytes, known: list[bytes], words: list[bytes]) -> bytes:
    other = chance.choice(known)
    return content[: chance.randint(0, len(content))] + other[chance.randint(0, len(other)) :]


def _swap_lines(
    chance: random.Random, content: bytes, known: list[bytes], words: list[bytes]
) -> bytes:
    lines = content.split(b"\n")
    first, last = (chance.randrange(len(lines)) for _ in range(2))
    lines[first], lines[last] = lines[last], lines[first]
    return b"\n".join(lines)


_CHANGES = (_insert, _replace, _replace, _flip, _cut, _repeat, _splice, _swap_lines)
