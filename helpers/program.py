"""Programs of the host that do one thing, and say on standard error why they could not.

run() is for what takes a known time at most, watch() for what takes as long as it goes on.
"""

import os

from torpor import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from torpor.enclosure import Enclosure
    from torpor.patience import Stall

_SHOWN_LENGTH = 400
_TICK_S = 1.0


def run(
    argv: list[str],
    *,
    timeout_s: float,
    stdin: int | None = None,
    umask: int | None = None,
    enclosure: "Enclosure | None" = None,
) -> str:
    """Run a program to its end: empty when it did what it was asked, else the reason it gave.

    Its standard output is dropped. It is killed when the time is over.
    """
    spawn = enclosure.spawn if enclosure else process.spawn
    sink = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    reader, writer = os.pipe()
    try:
        child = spawn(
            argv,
            stdin=stdin,
            stdout=sink,
            stderr=writer,
            env={"LC_ALL": "C.UTF-8"},
            umask=umask,
        )
    except OSError as error:
        os.close(reader)
        return f"{argv[0]}: {error.strerror}"
    finally:
        os.close(writer)
        os.close(sink)
    status, said = process.collect(child, reader, timeout_s)
    return _reason(said, status) if status else ""


def watch(
    argv: list[str],
    progress: "Callable[[], None]",
    stall: "Stall",
    *,
    sign: "Callable[[], object]" = lambda: None,
    stdin: int | None = None,
    umask: int | None = None,
    enclosure: "Enclosure | None" = None,
) -> str:
    """As run(), for as long as it reads or sign() changes.

    progress is called every second, and may raise. All that it says counts as said on standard
    error.
    """
    spawn = enclosure.spawn if enclosure else process.spawn
    reader, writer = os.pipe()
    try:
        child = spawn(
            argv,
            stdin=stdin,
            stdout=writer,
            stderr=writer,
            env={"LC_ALL": "C.UTF-8"},
            umask=umask,
        )
    finally:
        os.close(writer)
    said = b""
    is_open = True
    try:
        while is_open or child.wait(_TICK_S) is None:
            if is_open and process.readable(reader, _TICK_S):
                chunk = os.read(reader, 4096)
                said, is_open = said or chunk, bool(chunk)
                continue
            if stall.stalled((process.read_bytes_below(child.pid), sign())):
                return f"{argv[0]} does not go on"
            progress()
    finally:
        child.kill_tree()
        os.close(reader)
    return _reason(said.decode("utf-8", "replace"), child.status) if child.status else ""


def _reason(said: str, status: int) -> str:
    """The first line that was said, as one printable line: what follows is usage or advice."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    words = lines[0] if lines else f"it ended with status {status}"
    return "".join(char for char in words if char.isprintable())[:_SHOWN_LENGTH]
