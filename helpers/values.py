"""How the text of a definition becomes a value: what every key has in common.

Each parser takes a node of the YAML tree and returns the value, or raises WrongError.
"""

import os
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from torpor.yaml_tree import Mapping, Node, Scalar, Sequence, shown

ID_MAX = (1 << 31) - 1  # runc's libcontainer/user refuses larger ids
_INTEGER_MAX = 999_999_999
_GUESSED_LENGTH = 60
_SIZE = re.compile(r"([0-9]{1,15})([KMGTPE]?)B?", re.IGNORECASE)
_SUFFIXES = " KMGTPE"  # binary, as systemd and tmpfs(5) have them
_SIZE_MAX_BYTES = (1 << 63) - 1

Value = TypeVar("Value")


class WrongError(Exception):
    """What is wrong with a value; line where that is not the line of its key."""

    def __init__(self, problem: str, hint: str = "", line: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint
        self.line = line


def text(node: Node) -> str:
    """The one value that was written."""
    if not isinstance(node, Scalar):
        kind = "a list" if isinstance(node, Sequence) else "a mapping"
        raise WrongError(f"is {kind}, but must be a single value", line=node.line)
    if node.absent:
        raise WrongError(
            "has no value", 'Remove the key, or write "" for an empty text.', node.line
        )
    return node.text


def path(node: Node) -> str:
    """An absolute path, normalised, not resolved."""
    return absolute(text(node), node.line)


def absolute(words: str, line: int | None = None) -> str:
    if not words.startswith("/"):
        raise WrongError(f"'{shown(words)}' is not an absolute path", "Begin it with /.", line)
    if ".." in words.split("/"):
        raise WrongError(f"'{shown(words)}' contains '..'", "Write the path without it.", line)
    return "/" + os.path.normpath(words).lstrip("/")


def tree(node: Node) -> str:
    """An absolute path of a directory that is not the machine's own root."""
    if (found := path(node)) == "/":
        raise WrongError(
            "is the root directory of this machine", "Name a directory that is the container's own."
        )
    return found


def number(words: str) -> int | None:
    """The number that words are in decimal, None if they are none or absurdly long."""
    return int(words) if re.fullmatch("[0-9]{1,10}", words) else None


def count(node: Node) -> int:
    """An integer of at least 1."""
    found = number(words := text(node))
    if found is None or not 1 <= found <= _INTEGER_MAX:
        raise WrongError(
            f"'{shown(words)}' is not an integer of at least 1", f"Write 1 to {_INTEGER_MAX}."
        )
    return found


def size_bytes(node: Node) -> int:
    """A number of bytes, with K, M, G, T, P or E for powers of 1024."""
    match = _SIZE.fullmatch(words := text(node).strip())
    found = int(match[1]) << 10 * max(0, _SUFFIXES.find(match[2].upper() or " ")) if match else 0
    if not 0 < found <= _SIZE_MAX_BYTES:
        raise WrongError(f"'{shown(words)}' is not a size", "Write for example 65536K, 64M or 1G.")
    return found


def boolean(node: Node) -> bool:
    word = text(node).lower()
    if word not in ("yes", "true", "no", "false"):
        raise WrongError(f"'{shown(word)}' is not a boolean", "Write yes or no, true or false.")
    return word in ("yes", "true")


def choice(allowed: tuple[str, ...], node: Node) -> str:
    word = text(node)
    if word not in allowed:
        raise WrongError(
            f"'{shown(word)}' is not one of {', '.join(allowed)}", nearest(word, allowed), node.line
        )
    return word


def list_of(one: Callable[[Node], Value], node: Node) -> tuple[Value, ...]:
    """A list, or a single value for a list of one."""
    return tuple(map(one, node.items)) if isinstance(node, Sequence) else (one(node),)


def pairs(node: Node) -> dict[str, tuple[int, Node]]:
    """The entries of a mapping: name → line and value."""
    if not isinstance(node, Mapping):
        raise WrongError("must be a mapping", "Write NAME: VALUE below it.", node.line)
    return node.entries


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A hint: the word that was probably meant, or all that are known."""
    import difflib

    choices = list(allowed)
    close = difflib.get_close_matches(
        word[:_GUESSED_LENGTH].lower().replace("_", "-"), choices, n=1
    )
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(choices)}."
