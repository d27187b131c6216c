"""One dump of a running container, from the freeze to CRIU's end."""

import os
import time
from collections.abc import Callable

from torpor import (
    cgroup_tree,
    criu,
    criu_files,
    fault,
    images,
    mounts,
    preparation,
    process,
    runc,
    shm,
    state,
)
from torpor.cgroup import Cgroup
from torpor.container import Container
from torpor.errors import CheckpointError, ContainerLostError, TorporError
from torpor.images import Generation
from torpor.last_rendering import Inputs
from torpor.payload import KILL_TIMEOUT_S
from torpor.preparation import Plan
from torpor.talk import mebibytes

FREEZE_TIMEOUT_S = 20.0
# CRIU is taken to hang when neither its log nor its images grew for this long.
STALL_S = 60.0
_TICK_S = 1.0
_MARGIN_BYTES = 32 << 20
# A file system that hangs must not hold up a shutdown for ever.
_SYNC_TIMEOUT_S = 300.0


def preflight(container: Container, cgroup: Cgroup) -> None:
    """What can be known before anything is frozen; CheckpointError says why it would fail."""
    missing = criu.missing()
    if missing:
        raise CheckpointError(missing)
    found = criu.version()
    if found < criu.MINIMUM:
        raise CheckpointError(
            f"checkpointing needs CRIU >= {_dotted(criu.MINIMUM)}, found {_dotted(found)}",
            "install a newer criu",
        )
    pids = cgroup.pids()
    if not pids:
        raise CheckpointError("the container has no processes", "")
    if preparation.joins_ipc(preparation.read(container.plan_path)):
        _require_no_segment(pids)
    needed = cgroup.memory_bytes() + _MARGIN_BYTES
    disk = os.statvfs(container.state_dir)
    free = disk.f_bavail * disk.f_frsize
    if free < needed:
        raise CheckpointError(
            f"{container.state_dir}: {mebibytes(free)} are free, "
            f"the images may need {mebibytes(needed)}",
            "make room there, or mount a larger file system at /var/lib/torpor",
        )


def tcp_lock(inputs: Inputs) -> str:
    """How connections are held back that are to go on, empty where they are closed.

    Raises CheckpointError where nothing can hold them back.
    """
    if not inputs.tcp_keep:
        return ""
    if found := criu.tcp_lock():
        return found
    raise CheckpointError(
        "connections are to be kept, but CRIU can hold back no packets",
        "install iptables, or a criu that was built with nftables; or say tcp: close",
    )


def freeze(cgroup: Cgroup, plan: Plan) -> None:
    """Freeze a container that runs under plan, so that it can be dumped."""
    if preparation.first(plan, preparation.INIT):
        from torpor import stillness  # for a systemd only

        stillness.freeze(cgroup, FREEZE_TIMEOUT_S)
    else:
        cgroup.freeze(FREEZE_TIMEOUT_S)


def _require_no_segment(pids: list[int]) -> None:
    """CRIU attaches only shared memory that it makes itself, and here another has made it."""
    for pid in pids:
        if criu.has_ipc_segment(pid):
            raise CheckpointError(
                f"process {pid} ({process.name(pid)}) has shared memory of System V attached, "
                "in an ipc namespace that is not the container's own",
                "let it use /dev/shm instead, which can be shared and sleeps",
            )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


class Dump:
    """Runs ``runc checkpoint``; ``commit`` is called while CRIU holds the finished dump.

    ``commit`` makes the images durable and ends the container, or raises: then CRIU rolls back
    and the container goes on.
    """

    def __init__(
        self,
        container: Container,
        generation: Generation,
        cgroup: Cgroup,
        progress: Callable[[], None],
        tcp_lock: str = "",
    ) -> None:
        self._container = container
        self._generation = generation
        self._cgroup = cgroup
        self._progress = progress  # called at least every second
        self._tcp_lock = tcp_lock  # how connections are held back that are to go on; see criu
        self._refusal: Exception | None = None
        self._committed = False

    def run(self, commit: Callable[[], None], *, leave_running: bool = False) -> None:
        """Raise CheckpointError when the container can go on, ContainerLostError when it cannot."""
        process.raise_open_files()
        channel = criu.Channel(self._container)
        child = None
        try:
            child = runc.checkpoint(
                self._container,
                self._generation.images,
                self._generation.work,
                channel.environment(
                    self._cgroup, criu.configuration(self._container, [], self._tcp_lock)
                ),
                leave_running=leave_running,
                keeps_connections=bool(self._tcp_lock),
            )
            self._serve(channel, child, commit)
        finally:
            channel.close()
            if child is not None and child.poll() is None:
                process.kill_tree(child.pid)
        # After a commit, what CRIU did no longer counts; without one, only that counts.
        done = child.status == 0 if leave_running else self._committed
        if not done:
            raise self._failure()

    def _serve(
        self, channel: criu.Channel, child: process.Child, commit: Callable[[], None]
    ) -> None:
        stall = _Stall()
        while child.poll() is None:
            channel.wait(child, _TICK_S)
            for question in channel.questions():
                if question.stage == criu.POST_DUMP:
                    channel.answer(go_on=self._commit(commit, question))
                    stall = _Stall()  # that took its time, and was not CRIU's
            self._progress()
            size = self._generation.size_bytes()
            if stall.stalled((size, criu.log_size(self._generation.work, "dump"))):
                process.kill_tree(child.pid)

    def _commit(self, commit: Callable[[], None], question: criu.Question) -> bool:
        fault.point("post-dump")
        try:
            # CRIU has thawed the cgroup and holds the tasks itself: were it killed now, they
            # would run on, with its code in them and later than the images. Frozen, they cannot;
            # and if it still holds them after that, they did not in between.
            self._cgroup.write("cgroup.freeze", "1")
            if not question.still_holds():
                raise CheckpointError("CRIU was killed")
            commit()
        except Exception as error:  # whatever it is, CRIU is to end in order
            self._refusal = error
            return False
        self._committed = True
        return True

    def _failure(self) -> TorporError:
        work = self._generation.work
        reason, advice = runc.explain(self._container, work, "dump")
        if self._refusal is not None:
            reason = f"the images could not be made durable: {self._refusal}"
        hint = "\n".join([*criu.obstacles(self._cgroup.pids()), *advice])
        # CRIU writes its log before it touches a task: no log, no harm.
        if criu.dump_rolled_back(work) or not criu.log_size(work, "dump"):
            return CheckpointError(reason, hint)
        return ContainerLostError(f"CRIU was cut off in the middle: {reason}", hint)


class _Stall:
    """Notices that nothing has changed for STALL_S."""

    def __init__(self) -> None:
        self._seen: tuple[int, ...] = ()
        self._since_s = time.monotonic()

    def stalled(self, seen: tuple[int, ...]) -> bool:
        now_s = time.monotonic()
        if seen != self._seen:
            self._seen, self._since_s = seen, now_s
        return now_s - self._since_s > STALL_S


class Commit:
    """Makes a finished dump durable, then kills what was dumped: in this order, never the other."""

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
        progress: Callable[[], None],
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
        self._progress = progress
        self.size_bytes = 0
        self.frozen_s = 0.0
        self.unfinished: TorporError | OSError | None = None  # why it is COMMITTED, not READY

    def __call__(self) -> None:
        syncing = {path: process.spawn(["sync", "--file-system", path]) for path in self._paths()}
        cgroup_tree.save(self._cgroup, self._generation.cgroups)
        shm.save(self._container, self._plan, self._generation, self._progress)
        if preparation.joins_ipc(self._plan):
            criu.leave_out_ipc(self._generation.images)
        criu_files.mend(self._generation.images, self._cgroup.pids())
        manifest = images.seal(self._generation, self._facts, self._progress)
        deadline_s = time.monotonic() + _SYNC_TIMEOUT_S
        for path, child in syncing.items():
            while child.wait(_TICK_S) is None:
                if time.monotonic() > deadline_s:
                    raise CheckpointError(f"{path}: its file system does not sync")
                self._progress()
            if child.status != 0:
                raise CheckpointError(f"{path} could not be synced to its disk")
        fault.point("sealed")
        number = self._generation.number
        committed = self._current.become(state.COMMITTED, self._reason, generation=number)
        state.write(self._container, committed)
        self.size_bytes = manifest.size_bytes
        try:
            self._finish(committed)
        except (OSError, TorporError) as error:
            # No way back from here: the images are what the next start goes by, and it
            # kills what is still there first.
            self.unfinished = error

    def _paths(self) -> list[str]:
        """One place of each file system, mounted below one of the paths or above it.

        Not sockets and devices, which sync(1) would open, nor what is gone meanwhile.
        """
        by_device: dict[int, str] = {}
        for path in self._sync_paths:
            for place in (path, *mounts.below(path)):
                if os.path.isdir(place) or os.path.isfile(place):
                    by_device.setdefault(os.stat(place).st_dev, place)
        return list(by_device.values())

    def _finish(self, committed: state.State) -> None:
        fault.point("committed")
        self._cgroup.kill(KILL_TIMEOUT_S)
        self.frozen_s = time.monotonic() - self._frozen_at_s
        fault.point("killed")
        ready = committed.become(state.READY, self._reason, frozen_s=self.frozen_s)
        state.write(self._container, ready)
        fault.point("ready")
