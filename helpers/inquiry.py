"""What an installed program says of itself: asked once per boot and binary."""

import os

from torpor import process, record
from torpor.container import RUN_ROOT
from torpor.process import read_small

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def once(program: str, what: str, ask: "Callable[[str], str]") -> str:
    """What ask() finds out of the program at a path, one line; empty where it is not installed."""
    path = process.find(program)
    if not path:
        return ""
    stat = os.stat(path)
    stamp = f"{path}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"
    cache = f"{RUN_ROOT}/.{program}-{what}"
    known = read_small(cache).split("\n")
    if known[0] != stamp or len(known) < 2:
        known = [stamp, ask(path)]
        _remember(cache, "\n".join(known))
    return known[1]


def _remember(cache: str, text: str) -> None:
    """Where that cannot be, on a full disk or when another does it too, it is asked again."""
    try:
        record.make_directory(RUN_ROOT)
        record.replace(cache, text.encode())
    except OSError:
        pass
