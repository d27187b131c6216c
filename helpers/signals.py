"""Signals: what is sent and handled, and the names that people and images write.

By the C module below `signal`, which would import enum and what that needs on every start and stop.
"""

import _signal  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

KILL: int = _signal.SIGKILL
PIPE: int = _signal.SIGPIPE
STOP: int = _signal.SIGSTOP
TERM: int = _signal.SIGTERM


def send(pidfd: int, number: int) -> None:
    """Signal the process of a pidfd. Raises ProcessLookupError."""
    _signal.pidfd_send_signal(pidfd, number)


def on(number: int, handler: "Callable[[int, object], object]") -> None:
    """From now on a signal of this process has the handler called."""
    _signal.signal(number, handler)


def by_default(number: int) -> None:
    """From now on a signal of this process does what it does by default."""
    _signal.signal(number, _signal.SIG_DFL)


def parse(text: str) -> int | None:
    """The number of a signal: ``15``, ``TERM``, ``SIGTERM``, ``RTMIN+3``; else None."""
    import signal

    name = text.strip().upper().removeprefix("SIG")
    if not name.isascii() or len(name) > len("RTMIN+30"):
        return None
    if name.isdigit():
        number = int(name)
        return number if 0 < number <= signal.SIGRTMAX else None
    base, sign, offset = name.replace("-", "+-").partition("+")
    if base in ("RTMIN", "RTMAX") and sign and offset.lstrip("-").isdigit():
        number = getattr(signal, f"SIG{base}") + int(offset)
        return number if signal.SIGRTMIN <= number <= signal.SIGRTMAX else None
    member = signal.Signals.__members__.get(f"SIG{name}")
    return int(member) if member is not None else None
