"""Named points at which a test can cut this process off, to see what a crash there leaves behind.

TORPOR_FAULT=POINT=ACTION does it once, so that what is tried again can succeed: ``kill`` sends
SIGKILL to this process, ``fail`` raises OSError, ``stop`` raises SIGSTOP after writing the point
to TORPOR_FAULT_FILE. TORPOR_FAULT_TRACE names a file that gets a line for each point passed: when,
in seconds of CLOCK_MONOTONIC, and its name.

Points are moments of a verb by name, and those before, amid and after each durable step. Where
neither variable is set, passing one is a call of a function that does nothing.
"""

import os
import time

_POINT, _, _ACTION = os.environ.get("TORPOR_FAULT", "").partition("=")
_TRACE = os.environ.get("TORPOR_FAULT_TRACE", "")


def _pass(name: str) -> None:
    global _POINT
    if _TRACE:
        _append(_TRACE, f"{time.monotonic():.6f} {name}")
    if name != _POINT:
        return
    _POINT = ""
    if _ACTION == "fail":
        raise OSError(5, f"fault injected at {name}")
    from signal import SIGKILL, SIGSTOP  # imports enum: not for those who only pass

    if _ACTION == "kill":
        os.kill(os.getpid(), SIGKILL)
    _append(os.environ["TORPOR_FAULT_FILE"], f"{name} {os.getpid()}")
    os.kill(os.getpid(), SIGSTOP)


def _append(path: str, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


def _before(path: str) -> None:
    _pass(f"before {_place(path)}")


def _amid(path: str) -> None:
    _pass(f"amid {_place(path)}")


def _after(path: str) -> None:
    _pass(f"after {_place(path)}")


def _place(path: str) -> str:
    """What a durable step is called: its file's name, and where it is in a generation."""
    directory, _, name = path.rpartition("/")
    if name.isdigit():
        name = "generation"
    return f"generation/{name}" if directory.rpartition("/")[2].isdigit() else name


def _nothing(_: str) -> None:
    pass


_WATCHED = bool(_POINT or _TRACE)
point = _pass if _WATCHED else _nothing  # a moment by its name
before = _before if _WATCHED else _nothing  # a durable step, by the path that it changes
amid = _amid if _WATCHED else _nothing  # what is to be there is written, under another name
after = _after if _WATCHED else _nothing
