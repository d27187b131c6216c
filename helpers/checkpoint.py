"""One dump of a running container, from the freeze to CRIU's end."""

import os
import time

from torpor import criu, estimate, fault, preparation, process, runc
from torpor.cgroup import Cgroup
from torpor.container import Container
from torpor.errors import (
    CheckpointError,
    ContainerLostError,
    RuntimeFailedError,
    TorporError,
)
from torpor.images import Generation
from torpor.last_rendering import Inputs
from torpor.patience import Patience, Stall
from torpor.preparation import Plan
from torpor.talk import mebibytes
from torpor.vantage import Vantage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FREEZE_TIMEOUT_S = 20.0
PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.4)  # between attempts at what passes; see may_succeed
_SPAWN_S = 5.0  # in which a program that is being started begins
_SPAWN_LOOK_S = 0.001
_TICK_S = 1.0
# Time for runc to leave after the commit: nothing depends on it any more.
_LEAVE_S = 5.0
_MARGIN_BYTES = 32 << 20
_RUN_BYTES = 256 << 10  # runc's state and log, FIFOs


def may_succeed(error: CheckpointError, pid: int) -> bool:
    """Whether another attempt at a container that runs on may succeed; pid is its init.

    What an earlier dump has left in its way is removed.
    """
    from torpor import link_remaps  # for those that fail alone

    return criu.will_pass(error.message) or link_remaps.remove(pid, error.message)


def preflight(container: Container, cgroup: Cgroup) -> None:
    """What can be known before anything is frozen; CheckpointError says why it would fail."""
    missing = criu.missing()
    if missing:
        raise CheckpointError(missing)
    found = criu.version()
    if found < criu.MINIMUM:
        words = _dotted(found) or "one that does not say its version"
        raise CheckpointError(
            f"checkpointing needs CRIU >= {_dotted(criu.MINIMUM)}, found {words}",
            "install a newer criu",
        )
    pids = cgroup.pids()
    if not pids:
        raise CheckpointError("the container has no processes", "")
    if preparation.joins(preparation.read(container.plan_path), "ipc"):
        _require_no_segment(pids)
    _require_room(
        _place_of_images(container),
        estimate.size_bytes(container, cgroup, pids) + _MARGIN_BYTES,
        "the images may need",
        "make room there, or mount a larger file system at /var/lib/torpor",
    )
    _require_room(container.run_dir, _RUN_BYTES, "a dump needs", "make room in /run")


def _place_of_images(container: Container) -> str:
    """Generations may be on a file system of their own."""
    directory = container.generations_dir
    return directory if os.path.isdir(directory) else container.state_dir


def _require_room(directory: str, needed: int, what_for: str, hint: str) -> None:
    free = _free_bytes(directory)
    if free < needed:
        raise CheckpointError(
            f"{directory}: {mebibytes(free)} are free, {what_for} {mebibytes(needed)}", hint
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


def _free_bytes(directory: str) -> int:
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def freeze(cgroup: Cgroup, plan: Plan, limit: Patience) -> None:
    """Freeze a container that runs under plan, so that it can be dumped."""

    def timeout_s() -> float:
        return min(FREEZE_TIMEOUT_S, limit.limit_s)

    def at_once() -> None:
        if preparation.first(plan, preparation.INIT):
            from torpor import stillness  # for a systemd only

            stillness.freeze(cgroup, timeout_s)
        else:
            cgroup.freeze(timeout_s)

    began_s = time.monotonic()
    try:
        _freeze_between_spawns(cgroup, at_once, lambda: min(_SPAWN_S, timeout_s()))
    except RuntimeFailedError:
        limit.spent_s += time.monotonic() - began_s
        raise


def _freeze_between_spawns(
    cgroup: Cgroup, freeze_at_once: "Callable[[], None]", patience_s: "Callable[[], float]"
) -> None:
    """Freeze it while nobody waits in vfork(2) for a program that is frozen before it begins.

    CRIU cannot take hold of who waits there (state D, wait_for_vfork_done() in the kernel).
    patience_s is asked only where somebody does.
    """
    deadline_s = 0.0
    while True:
        freeze_at_once()
        waiting = _in_vfork(cgroup)
        if not waiting:
            return
        cgroup.thaw()
        deadline_s = deadline_s or time.monotonic() + patience_s()
        while _in_vfork(cgroup) and time.monotonic() < deadline_s:
            time.sleep(_SPAWN_LOOK_S)
        if time.monotonic() > deadline_s:
            raise RuntimeFailedError(
                f"process {waiting} ({process.name(waiting)}) waits in vfork(2) for a program "
                "that does not begin, and CRIU cannot take hold of it",
                "stop it when that is over",
            )


def _in_vfork(cgroup: Cgroup) -> int:
    """A process of it that waits so; 0 where none does."""
    return next((pid for pid in cgroup.pids() if process.run_state(pid) == "D"), 0)


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
        progress: "Callable[[], None]",
        patience: Patience,
        tcp_lock: str = "",
        vantage: Vantage | None = None,
        parent: str = "",
    ) -> None:
        self._container = container
        self._generation = generation
        self._cgroup = cgroup
        self._progress = progress  # called at least every second
        self._patience = patience
        self._tcp_lock = tcp_lock  # how connections are held back that are to go on; see criu
        self._vantage = vantage  # where CRIU stands
        self._parent = parent  # images that this begins with, see ahead
        self._given_up = ""  # why it was killed
        self._refusal: Exception | None = None
        self._committed = False
        self._leave_running = False

    def run(
        self,
        commit: "Callable[[], None]",
        *,
        leave_running: bool = False,
        only_memory: bool = False,
    ) -> None:
        """Raise CheckpointError when the container can go on, ContainerLostError when it cannot.

        only_memory: before the dump itself; it runs on, and CRIU does not ask.
        """
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
                only_memory=only_memory,
                keeps_connections=bool(self._tcp_lock),
                within=self._vantage.place if self._vantage else "",
                parent=self._parent,
            )
            self._leave_running = leave_running or only_memory
            self._serve(channel, child, commit)
        finally:
            channel.close()
            if child is not None and child.poll() is None:
                child.kill_tree()
        # After a commit, what CRIU did no longer counts; without one, only that counts.
        done = child.status == 0 if self._leave_running else self._committed
        if not done:
            raise self._failure(child.status)

    def _serve(
        self, channel: criu.Channel, child: process.Child, commit: "Callable[[], None]"
    ) -> None:
        stall = Stall(self._patience)
        while child.poll() is None:
            channel.wait(child, _TICK_S)
            for question in channel.questions():
                if question.stage == criu.POST_DUMP:
                    channel.answer(go_on=self._commit(commit, question))
                    stall.reset()  # that took its time, and was not CRIU's
            self._progress()
            log_size = criu.log_size(self._generation.work, "dump")
            if log_size > criu.LOG_MAX_BYTES:
                self._given_up = f"its log grew beyond {mebibytes(criu.LOG_MAX_BYTES)}"
            elif stall.stalled((self._generation.size_bytes(), log_size)):
                self._given_up = f"nothing happened for {stall.silent_s:.0f} s"
            if self._given_up:
                child.kill_tree()
                return
            if self._committed and not self._leave_running:
                self._progress()
                child.wait(_LEAVE_S)
                return

    def _commit(self, commit: "Callable[[], None]", question: criu.Question) -> bool:
        fault.point("post-dump")
        try:
            # CRIU has thawed the cgroup and holds the tasks itself: were it killed now, they
            # would run on, with its code in them and later than the images. Frozen, they cannot;
            # and if it still holds them after that, they did not in between.
            self._cgroup.write("cgroup.freeze", "1")
            if not question.still_holds():
                raise CheckpointError("CRIU was killed")
            if self._vantage is not None:
                self._vantage.mend(self._generation.images)
            commit()
        except Exception as error:  # whatever it is, CRIU is to end in order
            self._refusal = error
            return False
        self._committed = True
        return True

    def _failure(self, status: int | None) -> TorporError:
        work = self._generation.work
        reason, advice = runc.explain(self._container, work, "dump")
        if self._refusal is not None:
            reason = f"the images could not be made durable: {self._refusal}"
        elif self._given_up:
            reason = f"{self._given_up}, so runc and CRIU were killed: {reason}"
        pids = self._cgroup.pids()
        room = [self._lack_of_room(pids)] if criu.is_out_of_space(reason) else []
        hint = "\n".join([*criu.obstacles(pids), *room, *advice])
        if self._rolled_back(status):
            return CheckpointError(reason, hint)
        return ContainerLostError(f"CRIU was cut off in the middle: {reason}", hint)

    def _rolled_back(self, status: int | None) -> bool:
        """Whether the container is as it was. On a full disk CRIU's log does not tell."""
        work = self._generation.work
        # CRIU writes its log before it touches a task: no log, no harm.
        began = criu.log_size(work, "dump") > 0
        said = criu.dump_rolled_back(work) or runc.criu_answered(self._container, status)
        return not began or said

    def _lack_of_room(self, pids: list[int]) -> str:
        written = self._generation.size_bytes()
        needed = max(written, estimate.size_bytes(self._container, self._cgroup, pids))
        free = _free_bytes(self._generation.path)
        return (
            f"make room in {self._generation.path}: the images may need {mebibytes(needed)}, of "
            f"which {mebibytes(written)} were written; {mebibytes(free)} are free"
        )
