"""Signal names as people and images write them."""

import signal


def parse(text: str) -> int | None:
    """The number of a signal: ``15``, ``TERM``, ``SIGTERM``, ``RTMIN+3``; else None."""
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
