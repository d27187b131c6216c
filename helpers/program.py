"""Programs of the host that do one thing, and say on standard error why they could not."""

import os

from torpor import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from torpor.enclosure import Enclosure

_SHOWN_LENGTH = 400


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


def _reason(said: str, status: int) -> str:
    """The first line that was said, as one printable line: what follows is usage or advice."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    words = lines[0] if lines else f"it ended with status {status}"
    return "".join(char for char in words if char.isprintable())[:_SHOWN_LENGTH]
