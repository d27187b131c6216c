"""How far something is that takes long, shown on a terminal and to nobody else."""

import os
import sys
import time

from torpor.talk import mebibytes

_TICK_S = 0.2


class Progress:
    """How far it is, on a terminal only."""

    def __init__(self, name: str, total_bytes: int) -> None:
        self._name = name
        self._total = mebibytes(total_bytes)
        self._bytes = 0
        self._next_s = 0.0
        self._is_shown = os.isatty(2)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_shown and self._next_s:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def advance(self, size_bytes: int) -> None:
        self._bytes += size_bytes
        now_s = time.monotonic()
        if self._is_shown and now_s >= self._next_s:
            self._next_s = now_s + _TICK_S
            sys.stderr.write(f"\r{self._name}: {mebibytes(self._bytes)} of {self._total}\033[K")
            sys.stderr.flush()
