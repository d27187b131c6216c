"""JSON with one meaning only: UTF-8, no key twice, no NaN, not nested without end."""

import json
import math
from typing import Any, NoReturn

_DEPTH_LIMIT = 64


def parse(content: bytes) -> object:
    """The value that content is. Raises ValueError, whose text says what is wrong with it."""
    try:
        value: object = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_object_of_unique_keys,
            parse_constant=_refuse_number,
            parse_float=_finite,
        )
        _require_shallow(value)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {_DEPTH_LIMIT} levels deep") from error
    return value


def _object_of_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {key[:60]!a} is given twice")
        result[key] = value
    return result


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:60]} is not a number of JSON")


def _finite(text: str) -> float:
    return number if math.isfinite(number := float(text)) else _refuse_number(text)


def _require_shallow(value: object) -> None:
    level = [value]
    for _ in range(_DEPTH_LIMIT):
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        level = inner
        if not level:
            return
    raise RecursionError
