"""Entries of systemd's journal: its native protocol, which takes fields, spoken by hand.

runc shows a hook's standard error only if it fails, crun never: what a hook has to say goes here.
"""

# Not imported where it is needed: by then a hook may be among a container's files. See notify.
import _socket
import os

from torpor.talk import ERROR, WARNING, plain, report, say

_SOCKET = "/run/systemd/journal/socket"
_TIMEOUT_S = 1.0  # for a journald that does not answer


def write(level: int, identifier: str, lines: list[str], fields: list[tuple[str, str]]) -> bool:
    """Write one entry; returns whether it is there. lines are its message."""
    message = "\n".join(map(plain, lines))
    pairs = [("PRIORITY", str(level)), ("SYSLOG_IDENTIFIER", identifier), *fields]
    said = [_field("MESSAGE", message), *(_field(key, plain(value)) for key, value in pairs)]
    try:
        link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            link.settimeout(_TIMEOUT_S)
            link.sendto(b"".join(said), _SOCKET)
        finally:
            link.close()
    except OSError:
        return False
    return True


def _field(key: str, value: str) -> bytes:
    text = value.encode("utf-8", "backslashreplace")
    if "\n" in value:
        return b"%s\n%s%s\n" % (key.encode(), len(text).to_bytes(8, "little"), text)
    return b"%s=%s\n" % (key.encode(), text)


def leads_there(fd: int) -> bool:
    """Whether what is written to a file is in the journal anyway: see sd_journal_stream_fd(3)."""
    stream = os.environ.get("JOURNAL_STREAM", "")
    if not stream:
        return False
    status = os.fstat(fd)
    return stream == f"{status.st_dev}:{status.st_ino}"


def warn(text: str) -> None:
    """Write a hook's warning to standard error and to the journal."""
    say(f"torpor: {text}", WARNING)
    write(WARNING, "torpor", [text], [])


def fail(who: str, error: Exception) -> None:
    """Report what ended a hook to standard error, and to the journal without a hint."""
    report(who, error)
    write(ERROR, "torpor", [f"{who}: {error}"], [])
