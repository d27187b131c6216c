"""Whose files may say what runs as root."""

import os
import stat

from torpor.errors import TorporError


def require(path: str, status: os.stat_result, fault: type[TorporError]) -> None:
    """Raise fault unless only root may write path; a group may, where an admin lets it."""
    if status.st_uid not in (0, os.geteuid()):
        raise fault(
            f"{path}: belongs to uid {status.st_uid}, who could run anything as root through it",
            f"Look at it, then: chown root: {path}",
        )
    if status.st_mode & stat.S_IWOTH:
        raise fault(
            f"{path}: is writable by everybody, who could run anything as root through it",
            f"Look at it, then: chmod o-w {path}",
        )
