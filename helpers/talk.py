"""What torpor says to people: standard error, with the journal's priority where it leads there."""

import os

from torpor.errors import TorporError

ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6


_OWN_FAULT = 70  # EX_SOFTWARE of sysexits.h


def plain(text: object) -> str:
    """text on one line, without what a terminal or a journal would obey.

    Messages hold words of others: paths, and what runc and CRIU say of a container's files.
    """
    words = str(text)
    if words.isprintable():
        return words
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in words)


def say(text: str, level: int = INFO) -> None:
    """Write one message to standard error."""
    _say([text], level)


def _say(lines: list[str], level: int) -> None:
    """Under systemd each line carries the ``<N>`` prefix of sd-daemon(3), so that
    ``journalctl -p warning`` finds it.
    """
    prefix = f"<{level}>" if "JOURNAL_STREAM" in os.environ else ""
    message = "".join(f"{prefix}{plain(line)}\n" for line in lines)
    try:
        os.write(2, message.encode("utf-8", "backslashreplace"))
    except OSError:
        pass


def warn(who: str, warnings: list[str]) -> None:
    """Say each of several warnings."""
    for warning in warnings:
        say(f"{who}: {warning}", WARNING)


def say_fault(who: str, message: str, hint: str = "") -> None:
    """Report a fault: what is wrong, and below it what to do."""
    hints = hint.rstrip("\n").split("\n") if hint else []
    _say([f"{who}: {message}", *(f"  {line}" for line in hints)], ERROR)


def report(who: str, error: Exception) -> int:
    """Report what ended a verb; returns its exit status."""
    if isinstance(error, TorporError):
        say_fault(who, error.message, error.hint)
        return error.exit_code
    if isinstance(error, OSError):
        say_fault(who, str(error))
        return 1
    say_fault(
        who, f"{type(error).__name__} in {_place(error)}: {error}", "this is torpor's own fault"
    )
    return _OWN_FAULT


def _place(error: Exception) -> str:
    """The line where it was raised."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    if step is None:
        return "an unknown place"
    return f"{step.tb_frame.f_code.co_filename}:{step.tb_lineno}"


def mebibytes(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.1f} MiB"


def size(size_bytes: int) -> str:
    """As mebibytes(), but what is smaller is said in KiB."""
    if abs(size_bytes) >= 1 << 20:
        return mebibytes(size_bytes)
    return f"{-(-size_bytes // 1024)} KiB"
