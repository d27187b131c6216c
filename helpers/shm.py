"""The content of a container's /dev/shm, which CRIU leaves to whoever mounted it."""

import os

from torpor import preparation, process, umask
from torpor.container import Container
from torpor.errors import CheckpointError
from torpor.images import Generation
from torpor.preparation import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_TICK_S = 1.0
_ATTRIBUTES = ["--sparse", "--acls", "--xattrs", "--xattrs-include=*", "--numeric-owner"]


def save(
    container: Container, plan: Plan, generation: Generation, progress: "Callable[[], None]"
) -> None:
    """Copy what is there into generation; nothing must be able to change it meanwhile.

    progress is called every second. Raises CheckpointError when the disk does not take it.
    """
    if not preparation.first(plan, preparation.SHM):
        return
    path = preparation.shm_path(container)
    if not os.path.ismount(path):
        raise CheckpointError(f"{path}, its /dev/shm, was unmounted", "do not unmount it by hand")
    if not os.listdir(path):
        return
    argv = ["tar", "--create", *_ATTRIBUTES, "--one-file-system", f"--file={generation.shm}"]
    if reason := _run([*argv, f"--directory={path}", "."], progress):
        raise CheckpointError(f"/dev/shm could not be saved: {reason}", "is the disk full?")


def load(
    container: Container, plan: Plan, generation: Generation, progress: "Callable[[], None]"
) -> None:
    """Put back what save() copied and a manifest vouches for.

    Raises OSError: what fails then is the host.
    """
    if not preparation.first(plan, preparation.SHM) or not os.path.exists(generation.shm):
        return
    path = preparation.shm_path(container)
    argv = ["tar", "--extract", *_ATTRIBUTES, "--same-owner", "--same-permissions"]
    if reason := _run([*argv, f"--file={generation.shm}", f"--directory={path}"], progress):
        raise OSError(f"/dev/shm could not be restored: {reason}")


def _run(argv: list[str], progress: "Callable[[], None]") -> str:
    """Empty, or the first words of tar."""
    reader, writer = os.pipe()
    try:
        child = process.spawn(argv, stdout=writer, stderr=writer, umask=umask.PRIVATE)
    finally:
        os.close(writer)
    said = b""
    try:
        while True:
            if not process.readable(reader, _TICK_S):
                progress()
                continue
            if not (chunk := os.read(reader, 4096)):
                break
            said = said or chunk
        while child.wait(_TICK_S) is None:
            progress()
    finally:
        os.close(reader)
    if not child.status:
        return ""
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[0] if lines else f"tar ended with status {child.status}"
