"""An OCI runtime configuration as a tree: its canonical bytes, and its parts where they exist.

Format: https://github.com/opencontainers/runtime-spec/blob/v1.2.0/config.md
"""

import json
from typing import Any

Config = dict[str, Any]


class ShapeError(Exception):
    """A part of a configuration is not of the kind that the specification says."""


def dumps(config: Config) -> bytes:
    """The canonical bytes of config: equal configurations give equal bytes."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii") + b"\n"


def section(parent: Config, key: str) -> Config:
    """The object parent[key], made where there is none. Raises ShapeError."""
    found = parent.get(key)
    if found is None:
        found = parent[key] = {}
    if not isinstance(found, dict):
        raise ShapeError(f"{key} is not an object")
    return found


def items(parent: Config, key: str) -> list[Any]:
    """The list parent[key], empty where there is none. Raises ShapeError."""
    value = parent.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ShapeError(f"{key} is not a list")
    return value


def objects(parent: Config, key: str) -> list[Config]:
    """The list of objects parent[key], empty where there is none. Raises ShapeError."""
    found = items(parent, key)
    if not all(isinstance(item, dict) for item in found):
        raise ShapeError(f"{key} holds something else than objects")
    return found
