"""What a root file system has in the places where systemd, as its PID 1, needs something."""

import errno
import hashlib
import hmac
import os
import stat
import uuid
from dataclasses import dataclass

from torpor import inroot, record, systemd_mode
from torpor.values import WrongError

_HOST_MACHINE_ID = "/etc/machine-id"
_DBUS_MACHINE_ID = "/var/lib/dbus/machine-id"
_SIZE_LIMIT_BYTES = 128
_UNSET = ("", "uninitialized")
_SALT = b"torpor container\0"


@dataclass(frozen=True)
class SystemdRoot:
    """machine_id is that of the container; is_recorded says whether its file has it already."""

    machine_id: str
    is_recorded: bool = True


# The directories and the files that look() looks at.
PLACES = (*systemd_mode.TMPFS, systemd_mode.CGROUP_PLACE)
FILES = (systemd_mode.MACHINE_ID_PLACE, _DBUS_MACHINE_ID)


def look(root: str, name: str, *, read_only: bool, told: str = "") -> SystemdRoot:
    """What systemd finds below root as container name. Raises WrongError where it cannot boot.

    told is the machine ID in its environment, empty where there is none.
    """
    for place in PLACES:
        _require_directory(root, place)
    text = _machine_id_at(root, systemd_mode.MACHINE_ID_PLACE)
    if systemd_mode.is_machine_id(text or ""):
        return SystemdRoot(text or "")
    if text not in (None, *_UNSET):
        problem = f"{systemd_mode.MACHINE_ID_PLACE} in it holds no machine-id(5)"
        raise WrongError(problem, "Empty that file: the container then gets one of its own.")
    if text is None and read_only:
        problem = f"it is read-only, and has no {systemd_mode.MACHINE_ID_PLACE}"
        raise WrongError(problem, "Make that file, empty: systemd does not boot without it.")
    # systemd takes this one before any that it is told.
    known = _machine_id_at(root, _DBUS_MACHINE_ID) or ""
    found = known if systemd_mode.is_machine_id(known) else told or derived_id(name)
    return SystemdRoot(found, is_recorded=False)


def derived_id(name: str) -> str:
    """A machine ID that is always the same for container name on this host, and on no other.

    It tells nobody the host's own (machine-id(5), sd_id128_get_machine_app_specific(3)).
    """
    host = (record.read_bytes(_HOST_MACHINE_ID) or b"").strip()
    digest = hmac.digest(host or b"torpor", _SALT + name.encode(), hashlib.sha256)
    return uuid.UUID(bytes=digest[:16], version=4).hex


def _require_directory(root: str, place: str) -> None:
    """At place is a directory, or nothing: then the runtime makes one. Links above lead inside."""
    directory, name = os.path.split(place)
    try:
        parent = inroot.open_handle(root, directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise WrongError(f"{directory} in it: {error.strerror}", "Make it a directory.") from error
    try:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise WrongError(f"{place} in it: {error.strerror}", "Make it a directory.") from error
    finally:
        os.close(parent)
    if not stat.S_ISDIR(mode):
        what = "a link" if stat.S_ISLNK(mode) else "not a directory"
        raise WrongError(f"{place} in it is {what}", "Make it a directory, or remove it.")


def _machine_id_at(root: str, place: str) -> str | None:
    """The text there; None where there is no such file. Raises WrongError for what is none."""
    try:
        content = inroot.read_in_root(root, place, _SIZE_LIMIT_BYTES)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise WrongError(
            f"{place} in it: {error.strerror}", "Make it a file, empty or with an id."
        ) from error
    return content.decode("ascii", "replace").strip()
