"""Names that CRIU gave open files which had lost theirs: link_remap.N, in the same directory.

A restore removes them. Of images that were never restored they stay, and are in the way of the next
dump that numbers its files alike (create_link_remap() in criu/files-reg.c).
"""

import os
import stat

from torpor import record

_SAYS, _WHY = "Can't link remap to /", ": File exists"
_NAME = "link_remap."


def remove(pid: int, reason: str) -> bool:
    """Remove those that a dump failed for, from the root of a process; False if it was not that.

    While a container runs no image is to be restored that still needs one.
    """
    path, found, _ = reason.partition(_SAYS)[2].partition(_WHY)
    if not found:
        return False
    from torpor import inroot  # seldom so

    directory = f"/{path}"
    while directory != "/":
        directory = os.path.dirname(directory)
        try:
            handle = inroot.open_handle(f"/proc/{pid}/root", directory)
        except FileNotFoundError:  # CRIU then takes the one above
            continue
        except OSError:
            return False
        try:
            return _remove_in(f"/proc/self/fd/{handle}")
        except OSError:
            return False
        finally:
            os.close(handle)
    return False


def _remove_in(directory: str) -> bool:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        removed = False
        for name in os.listdir(fd):
            ours = name.startswith(_NAME) and record.is_number(name.removeprefix(_NAME))
            if ours and stat.S_ISREG(os.lstat(name, dir_fd=fd).st_mode):
                os.unlink(name, dir_fd=fd)
                removed = True
        return removed
    finally:
        os.close(fd)
