"""A mistake in CRIU's images, mended before they are sealed.

CRIU has one entry for a file however it is open. Where a process holds a program open with O_PATH
alone, as systemd does with systemd-executor, and another process executes it, as each PAM session's
keeper does, CRIU 4.2 restores the latter from that entry and fails: "PR_SET_MM_MAP failed with -9".
"""

import os

from torpor import process
from torpor.errors import CheckpointError


def mend(images: str, pids: list[int]) -> None:
    """Have every program of the dumped, stopped processes open for reading too.

    Raises CheckpointError, OSError.
    """
    if not _has_path_only_program(pids):
        return
    try:
        from pycriu import images as format
    except ImportError as error:
        raise CheckpointError(
            "a program is open as a path only, which takes CRIU's Python library to save",
            "apt install python3-pycriu",
        ) from error
    executed = set()
    for name in os.listdir(images):
        if name.startswith("mm-"):
            with open(f"{images}/{name}", "rb") as file:
                executed |= {int(mm["exe_file_id"]) for mm in format.load(file)["entries"]}
    path = f"{images}/files.img"
    with open(path, "rb") as file:
        files = format.load(file)
    for entry in files["entries"]:
        reg = entry.get("reg")
        if reg and int(entry["id"]) in executed and int(reg["flags"]) & os.O_PATH:
            reg["flags"] = int(reg["flags"]) & ~os.O_PATH  # it serves execve(2) as well
    with open(path, "r+b") as file:
        file.write(format.dumps(files))
        file.truncate()


def _has_path_only_program(pids: list[int]) -> bool:
    programs = {_target(f"/proc/{pid}/exe") for pid in pids} - {""}
    return any(
        _target(f"/proc/{pid}/fd/{fd}") in programs and _is_path_only(pid, fd)
        for pid in pids
        for fd in _descriptors(pid)
    )


def _descriptors(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []


def _target(link: str) -> str:
    """Where a link leads: nothing is asked of the file system that it leads to."""
    try:
        return os.readlink(link)
    except OSError:
        return ""


def _is_path_only(pid: int, fd: str) -> bool:
    for line in process.read_small(f"/proc/{pid}/fdinfo/{fd}").splitlines():
        if line.startswith("flags:"):
            return bool(int(line.split()[1], 8) & os.O_PATH)
    return False
