"""sd_notify(3), spoken by hand: a datagram is all it takes."""

# The C module below `socket`, which would import selectors and enum on every start and stop.
import _socket
import os

_ADDRESS = os.environ.pop("NOTIFY_SOCKET", "")  # taken away so that runc does not use it


def notify(*lines: str) -> None:
    """Tell systemd these assignments in one message; does nothing outside a unit."""
    if not _ADDRESS:
        return
    address = "\0" + _ADDRESS[1:] if _ADDRESS.startswith("@") else _ADDRESS
    link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        link.sendto("\n".join(lines).encode(), address)
    except OSError:
        pass  # systemd is being re-executed, or gone: nobody to tell
    finally:
        link.close()


def status(text: str) -> None:
    notify(f"STATUS={text}")


def extend(seconds: int, text: str) -> None:
    """Show progress and ask for this many seconds more before the unit's timeout."""
    notify(f"STATUS={text}", f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000}")
