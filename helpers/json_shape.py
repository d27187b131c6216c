"""What kind of value each part of a JSON document is: the author's word is not taken for it."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

ENTRIES_MAX = 4096  # of a list or an object: no honest document comes near it

Value = TypeVar("Value")


class ShapeError(Exception):
    """A document is not of the form that its specification gives it."""


def an_object(value: object, key: str) -> dict[str, Any]:
    """null stands for an empty one, as Go's encoder writes it."""
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > ENTRIES_MAX:
        raise ShapeError(f"{key} is not an object of at most {ENTRIES_MAX} entries")
    return value


def a_list(value: object, key: str, one: Callable[[object, str], Value]) -> tuple[Value, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > ENTRIES_MAX:
        raise ShapeError(f"{key} is not a list of at most {ENTRIES_MAX} entries")
    return tuple(one(item, key) for item in value)


def texts(config: dict[str, Any], key: str) -> tuple[str, ...]:
    return a_list(config.get(key), key, a_text)


def pairs(value: object, key: str) -> tuple[tuple[str, str], ...]:
    return tuple(_each_pair(an_object(value, key), key))


def _each_pair(said: dict[str, Any], key: str) -> Iterator[tuple[str, str]]:
    for name, value in said.items():
        yield clean(name, key), a_text(value, key)


def a_text(value: object, key: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ShapeError(f"{key} holds something that is not a text")
    return clean(value, key)


def clean(text: str, key: str) -> str:
    """text, if the kernel can be given it."""
    if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in text):
        raise ShapeError(f"{key} holds a NUL or half a surrogate pair")
    return text
