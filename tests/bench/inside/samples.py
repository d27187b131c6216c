"""What was measured: milliseconds or other numbers, by what and of whom."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class Samples:
    """All samples so far, on disk after each section."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, dict[str, list[float]]] = {}

    def add(self, what: str, whom: str, value: float) -> None:
        self._found.setdefault(what, {}).setdefault(whom, []).append(round(value, 3))

    def save(self) -> None:
        self._path.write_text(json.dumps(self._found, indent=1), encoding="utf-8")


def in_turns(whom: Sequence[T], rounds: int, measure: Callable[[T, bool], None]) -> None:
    """Have each take its turn in every round, so that drift and noise hit all alike.

    Who begins changes from round to round. measure is told whether the round counts: the first is
    for caches.
    """
    for number in range(rounds + 1):
        first = number % len(whom)
        for each in (*whom[first:], *whom[:first]):
            measure(each, number > 0)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
