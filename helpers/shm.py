"""The content of a container's /dev/shm, which CRIU leaves to whoever mounted it."""

import os

from torpor import preparation, program, umask
from torpor.container import Container
from torpor.errors import CheckpointError
from torpor.images import Generation
from torpor.preparation import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from torpor.patience import Stall

_ATTRIBUTES = ["--sparse", "--acls", "--xattrs", "--xattrs-include=*", "--numeric-owner"]


def save(
    container: Container,
    plan: Plan,
    generation: Generation,
    progress: "Callable[[], None]",
    stall: "Stall",
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
    argv += [f"--directory={path}", "."]
    if reason := program.watch(argv, progress, stall, umask=umask.PRIVATE):
        raise CheckpointError(
            f"/dev/shm could not be saved to {generation.shm}: {reason}", "is the disk full?"
        )


def load(
    container: Container,
    plan: Plan,
    generation: Generation,
    progress: "Callable[[], None]",
    stall: "Stall",
) -> None:
    """Put back what save() copied and a manifest vouches for.

    Raises OSError: what fails then is the host.
    """
    if not preparation.first(plan, preparation.SHM) or not os.path.exists(generation.shm):
        return
    path = preparation.shm_path(container)
    argv = ["tar", "--extract", *_ATTRIBUTES, "--same-owner", "--same-permissions"]
    argv += [f"--file={generation.shm}", f"--directory={path}"]
    if reason := program.watch(argv, progress, stall, umask=umask.PRIVATE):
        raise OSError(f"/dev/shm could not be restored: {reason}")
