"""Regular expressions as Go reads them, matched by Python's.

Who writes a hook file tries it with podman, which uses Go's regexp, of RE2's syntax
(https://pkg.go.dev/regexp/syntax). What Python would read in another way is translated or refused.

Go matches in linear time, Python by trial and error, which may take for ever. So what is matched is
bounded in its length, and matching in its time.
"""

import re
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from torpor.yaml_tree import shown

LENGTH_LIMIT = 16 << 10  # `.*name$`, tried at every place of such a text, takes 0.2 s
TIMEOUT_S = 2.0

_TOKEN = re.compile(
    r"\\(?P<escape>.?)"
    r"|(?P<set>\[\^?+\]?+(?:\[:\^?\w+:\]|\\.|[^\]\\])*+\])"
    r"|(?P<unclosed>\[)"
    r"|\(\?(?P<group>P<\w+>|[is]*(?:-[is]+)?[:)])?"
    r"|(?P<possessive>(?:[*+?]|\{\d+(?:,\d*)?\})\+)"
    r"|(?P<brace>\{(?!\d+(?:,\d*)?\}))"
    r"|(?P<end>\$)",
    re.ASCII | re.DOTALL,
)
_IN_SET = re.compile(r"\\.|\[:(?P<name>\^?\w+):\]|[\[&~|]", re.ASCII | re.DOTALL)
_SPACE = r"\t\n\f\r "  # Python's \s has \v too
_ESCAPES = {"s": f"[{_SPACE}]", "S": f"[^{_SPACE}]", "z": r"\Z"}
_NOT_IN_SET = (r"\S", r"\b", r"\B")
_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7f",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}


class PatternError(Exception):
    """A pattern is none, or none that both Go and Python can match."""


class LimitError(Exception):
    """A match was given up: the text is too long, or it took too long."""


def compiled(pattern: str) -> re.Pattern[str]:
    """pattern, to be searched for anywhere in a text. Raises PatternError."""
    if len(pattern) > LENGTH_LIMIT:
        raise PatternError(f"it is longer than {LENGTH_LIMIT} characters")
    translated = _TOKEN.sub(_translated, pattern)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python warns of what it may read otherwise one day
            return re.compile(translated, re.ASCII)
    except (re.error, ValueError, OverflowError, Warning) as error:
        raise PatternError(shown(str(error).partition(" at position ")[0])) from error
    except RecursionError as error:
        raise PatternError("it is nested too deeply") from error


def matches(pattern: re.Pattern[str], text: str) -> bool:
    """Whether pattern matches somewhere in text. Raises LimitError for too long a text."""
    if len(text) > LENGTH_LIMIT:
        raise LimitError(f"cannot be matched with more than {LENGTH_LIMIT} characters")
    return pattern.search(text) is not None


@contextmanager
def limited() -> Iterator[None]:
    """Raises LimitError in what is inside after TIMEOUT_S; for the main thread only.

    `re` looks for signals every few thousand steps.
    """

    def expire(*_: object) -> NoReturn:
        raise LimitError(f"was not matched within {TIMEOUT_S:g} s")

    before = signal.signal(signal.SIGALRM, expire)
    try:
        signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _translated(token: re.Match[str]) -> str:
    if token["escape"] is not None:
        return _escape(token[0], token["escape"])
    if token["set"]:
        return "[" + _IN_SET.sub(_set_item, token[0][1:-1]) + "]"
    if token["brace"]:
        return r"\{"
    if token["end"]:
        return r"\Z"  # Python's $ also matches before a line break at the end
    if token["unclosed"] or token["possessive"] or not token["group"]:
        raise PatternError(f"'{shown(token[0])}' is not of Go's syntax, or not supported here")
    return token[0]


def _escape(text: str, letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    if letter and (letter in "123456789NUZu" or not letter.isascii()):
        raise PatternError(f"'{shown(text)}' is not of Go's syntax, or not supported here")
    return text


def _set_item(item: re.Match[str]) -> str:
    text, name = item[0], item["name"]
    if name in _CLASSES:
        return _CLASSES[name]
    if name or text in _NOT_IN_SET:
        raise PatternError(f"'{shown(text)}' in square brackets is not supported here")
    if text == r"\s":
        return _SPACE
    return text if text.startswith("\\") else f"\\{text}"
