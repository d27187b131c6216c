"""The commit of a dump: what CRIU wrote becomes what the next start goes by."""

import errno
import os
import stat
import time

from torpor import (
    cgroup_tree,
    criu,
    criu_files,
    fault,
    images,
    mount_flags,
    mounts,
    patience,
    preparation,
    process,
    shm,
    state,
)
from torpor.cgroup import Cgroup
from torpor.container import Container
from torpor.errors import CheckpointError, HungError
from torpor.following import Following
from torpor.images import Generation
from torpor.patience import Patience, Stall
from torpor.payload import KILL_TIMEOUT_S
from torpor.preparation import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_TICK_S = 1.0
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOTCONN)
# A file system that syncs without end must not hold up a shutdown for ever.
_SYNC_TIMEOUT_S = 300.0


def facts(
    container: Container, generation: Generation, dumping: state.State, plan: Plan
) -> dict[str, str]:
    """What the manifest says of a dump besides its files."""
    return {
        "name": container.name,
        "generation": str(generation.number),
        "inputs": dumping.inputs,
        "rootfs": dumping.rootfs,
        "volumes": preparation.durable_identity(container, plan),
        "taken": f"{time.time():.6f}",
        "boot": dumping.boot,
        "kernel": os.uname().release,
        "criu": ".".join(map(str, criu.version())),
        "reason": dumping.reason,
    }


def complete(
    container: Container,
    generation: Generation,
    cgroup: Cgroup,
    plan: Plan,
    progress: "Callable[[], None]",
    stall: Stall,
) -> None:
    """Add to CRIU's images what CRIU leaves to others, while it holds the container."""
    cgroup_tree.save(cgroup, generation.cgroups)
    shm.save(container, plan, generation, progress, stall)
    if preparation.joins(plan, "ipc"):
        criu.leave_out_ipc(generation.images)
    pids = cgroup.pids()
    mount_flags.save(pids, generation.mounts)
    criu_files.mend(generation.images, pids)


class Commit:
    """Makes a finished dump durable, then kills what was dumped: in this order, never the other.

    How long the kernel takes for that kill nobody waits for before finish().
    """

    def __init__(
        self,
        container: Container,
        generation: Generation,
        cgroup: Cgroup,
        current: state.State,
        facts: dict[str, str],
        sync_paths: list[str],
        plan: Plan,
        reason: str,
        frozen_at_s: float,
        following: Following,
        progress: "Callable[[], None]",
        patience: Patience,
    ) -> None:
        self._container = container
        self._generation = generation
        self._cgroup = cgroup
        self._current = current
        self._facts = facts
        self._sync_paths = sync_paths
        self._plan = plan
        self._reason = reason
        self._frozen_at_s = frozen_at_s
        self._following = following
        self._progress = progress
        self._patience = patience
        self.began = False  # to record it: from then on images may be found committed
        self.size_bytes = 0
        self.frozen_s = 0.0

    def __call__(self) -> None:
        syncing = {
            device: (path, process.spawn(["sync", "--file-system", path]))
            for device, path in self._file_systems().items()
        }
        complete(
            self._container,
            self._generation,
            self._cgroup,
            self._plan,
            self._progress,
            Stall(self._patience),
        )
        manifest = images.seal(
            self._generation,
            self._facts,
            self._progress,
            Stall(self._patience),
            self._following,
        )
        self._await_syncs(syncing)
        fault.point("sealed")
        number = self._generation.number
        self._committed = self._current.become(state.COMMITTED, self._reason, generation=number)
        self.began = True
        self.size_bytes = manifest.size_bytes
        state.write(self._container, self._committed, size_bytes=self.size_bytes)
        # No way back from here: the images are what the next start goes by, and it kills what is
        # still there first.
        fault.point("committed")
        try:
            self._cgroup.begin_kill()
        except OSError:
            pass  # finish() says why

    def _file_systems(self) -> dict[int, str]:
        """A place of each file system, mounted below one of the paths or above it, by st_dev."""
        places = [place for path in self._sync_paths for place in (path, *mounts.below(path))]
        looking_at = ""

        def look() -> dict[int, str]:
            nonlocal looking_at
            found: dict[int, str] = {}
            for looking_at in places:
                if (device := _device_to_sync(looking_at)) is not None:
                    found.setdefault(device, looking_at)
            return found

        try:
            stall = Stall(self._patience)
            return patience.aside(look, self._progress, stall, lambda: looking_at)
        except HungError as error:
            raise _hung(looking_at) from error

    def _await_syncs(self, syncing: dict[int, tuple[str, process.Child]]) -> None:
        deadline_s = time.monotonic() + _SYNC_TIMEOUT_S
        for device, (path, child) in syncing.items():
            stall = Stall(self._patience)
            while child.wait(_TICK_S) is None:
                late = time.monotonic() > deadline_s
                if late or stall.stalled(patience.disk_sign(device)):
                    raise _hung(path)
                self._progress()
            if child.status != 0:
                raise CheckpointError(f"{path} could not be synced to its disk")

    def finish(self) -> None:
        """Once the commit was made, record that what was dumped is dead.

        Raises TorporError, OSError: it is as well asleep without.
        """
        self._cgroup.kill(KILL_TIMEOUT_S)
        self.frozen_s = time.monotonic() - self._frozen_at_s
        fault.point("killed")
        ready = self._committed.become(state.READY, self._reason, frozen_s=self.frozen_s)
        state.write(self._container, ready, size_bytes=self.size_bytes)
        fault.point("ready")


def _device_to_sync(place: str) -> int | None:
    """st_dev of a place; None for what sync(1) would open as a device, and for what is not there.

    So is the FUSE of a user who lets nobody else in, and one without its server.
    """
    try:
        found = os.stat(place)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        return None
    return found.st_dev if stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode) else None


def _hung(path: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: its file system does not answer", "is its server or its disk there?"
    )
