"""One restore of a generation, from the check of its images to the frozen, restored processes."""

import os
import time

from torpor import (
    cgroup_tree,
    criu,
    fault,
    loopback,
    mount_flags,
    mounts,
    process,
    runc,
    signals,
)
from torpor.cgroup import Cgroup, own_unit, supervisor_of
from torpor.container import Container
from torpor.errors import (
    HostFaultError,
    RestoreCutOffError,
    RestoreError,
    StoppedError,
    TorporError,
)
from torpor.images import Generation, Verification
from torpor.lock import Restoring
from torpor.networking import Network
from torpor.patience import Patience, Stall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# A restore that neither logs nor reads is given the time to read the images from a slow disk.
_SLOW_DISK_BYTES_PER_S = 20 << 20
# Time for runc to leave after CRIU is gone; when CRIU was killed, runc may never.
_LEAVE_S = 5.0
_TICK_S = 0.5


class Restore:
    """Runs ``runc restore``; ``consume`` is called when everything is restored and nothing runs."""

    def __init__(
        self,
        container: Container,
        generation: Generation,
        verification: Verification,
        cgroup: Cgroup,
        cgroups: cgroup_tree.Saved,
        flags: mount_flags.Saved,
        progress: "Callable[[], None]",
        stop_asked: "Callable[[], bool]",
        network: Network,
        patience: Patience,
        *,
        tcp_lock: str = "",
        systemd_cgroup: bool = False,
        has_moved: bool = False,
    ) -> None:
        self._container = container
        self._generation = generation
        self._verification = verification
        self._cgroup = cgroup
        self._cgroups = cgroups
        self._flags = flags
        self._progress = progress  # called at least every second
        self._stop_asked = stop_asked  # whether to leave it asleep while that is still possible
        self._network = network
        self._patience = patience
        self._tcp_lock = tcp_lock  # how connections were held back that are to go on
        self._systemd_cgroup = systemd_cgroup
        self._has_moved = has_moved  # since the dump the cgroup became another
        self._refusal: TorporError | OSError | None = None
        self._is_hopeless = False
        self._consumed = False

    def run(self, output: int, consume: "Callable[[], None]") -> int:
        """The pid of the restored init, its cgroup frozen so that nothing has run yet.

        ImageError: the images are not what was sealed. RestoreError: CRIU failed on them.
        Nothing is cleaned up here.
        """
        process.raise_open_files()
        with Restoring():
            child = self._restore(output, consume)
        mounts.sweep_criu()
        if self._refusal is not None:
            raise self._refusal
        pid = runc.init_pid(self._container)
        # Without a question at post-restore nothing was verified nor consumed.
        if child.status != 0 or not pid or not self._consumed:
            self._verdict()
            raise self._failure(-signals.KILL if child.status is None else child.status)
        return pid

    def _restore(self, output: int, consume: "Callable[[], None]") -> process.Child:
        channel = criu.Channel(self._container)
        child = None
        try:
            child = runc.restore(
                self._container,
                self._generation.images,
                self._generation.work,
                channel.environment(
                    self._cgroup,
                    self._configuration(),
                    with_controllers=self._cgroups.has_controllers,
                ),
                output,
                systemd_cgroup=self._systemd_cgroup,
                keeps_connections=bool(self._tcp_lock),
            )
            os.close(output)
            self._serve(channel, child, consume)
        finally:
            channel.close()
            if child is not None and child.poll() is None:
                child.kill_tree()
        return child

    def _configuration(self) -> str:
        """The path of what CRIU is told, which by itself goes by the cgroups of the dump."""
        root = [f"cgroup-root :{self._cgroup.name}"] if self._has_moved else []
        return criu.configuration(self._container, root, self._tcp_lock)

    def _serve(
        self, channel: criu.Channel, child: process.Child, consume: "Callable[[], None]"
    ) -> None:
        grace_s = self._verification.size_bytes / _SLOW_DISK_BYTES_PER_S
        watch = _Watch(child.pid, self._generation.work, Stall(self._patience, grace_s))
        while child.poll() is None:
            channel.wait(child, _TICK_S)
            for question in channel.questions():
                channel.answer(go_on=self._pass(question, child, consume))
                watch.reset()  # that took its time, and was not CRIU's
            self._progress()
            stopped = self._stop_asked() and not self._consumed
            if stopped:
                self._refusal = StoppedError("stopped before it woke")
            self._is_hopeless = watch.hopeless()
            if stopped or self._verification.failed() or self._is_hopeless:
                child.kill_tree()
                return

    def _verdict(self) -> None:
        self._verification.verdict(self._progress, Stall(self._patience))

    def _pass(
        self, question: criu.Question, child: process.Child, consume: "Callable[[], None]"
    ) -> bool:
        fault.point(question.stage)
        question.locate(child.pid)
        try:
            if question.stage == criu.SETUP_NAMESPACES:
                self._cgroups.make(self._cgroup)
                loopback.set_up_in(question.init)
                self._network.attach(question.init)
                self._network.finish()
            elif question.stage == criu.POST_SETUP_NAMESPACES:
                self._cgroups.enable(self._cgroup, supervisor_of(own_unit()))
            elif question.stage == criu.POST_RESTORE:
                self._verdict()
                if not question.still_holds() or child.poll() is not None:
                    return False  # CRIU or runc was killed, and nothing has run: try again
                if self._stop_asked():
                    return False
                self._flags.put_back(self._cgroup.pids())
                consume()
                self._consumed = True
                fault.point("consumed")
            elif question.stage == criu.PRE_RESUME:
                self._freeze_without(question)
        except (OSError, TorporError) as error:
            self._refusal = error
            return False
        return True

    def _freeze_without(self, question: criu.Question) -> None:
        """What the action script does itself where it can see CRIU."""
        supervisor = supervisor_of(own_unit())
        for pid in (question.criu, *process.children(question.criu)):
            supervisor.write("cgroup.procs", str(pid))
        self._cgroup.write("cgroup.freeze", "1")

    def _failure(self, status: int) -> TorporError:
        if not self._consumed and (said := runc.failed_hook(self._container)):
            return HostFaultError(
                f"cannot restore: {said}", "mend that hook or remove it; then start again"
            )
        work = self._generation.work
        reason, advice = runc.explain(self._container, work, "restore")
        hint = "\n".join(advice)
        began = criu.log_size(work, "restore") > 0
        if self._is_hopeless and not began:
            return HostFaultError(
                "cannot restore: runc or CRIU did not even begin, and was killed",
                "try: criu check; then start it again",
            )
        if not began and runc.criu_answered(self._container, status):
            return HostFaultError(
                f"cannot restore: CRIU could not write its log in {work}",
                "is that disk full, or does it fail?",
            )
        if status < 0 or (began and not criu.restore_refused(work)):
            return RestoreCutOffError(f"the restore was cut off: {reason}", hint)
        if not self._consumed and criu.process_id_is_taken(reason):
            return HostFaultError(
                f"cannot restore: {reason}", f"its process ids are not free: start it again\n{hint}"
            )
        if not self._consumed and criu.root_is_gone(reason):
            return RestoreCutOffError(
                f"{self._container.runc_dir} was removed: does somebody call 'runc delete'?", hint
            )
        if not self._consumed and criu.is_out_of_space(reason):
            return HostFaultError(
                f"cannot restore: {reason}", f"make room where that is, and start it again\n{hint}"
            )
        return RestoreError(reason, hint)


class _Watch:
    """Notices a restore that will not end: a stalled or raving CRIU, a runc without its CRIU."""

    def __init__(self, pid: int, work: str, stall: Stall) -> None:
        self._pid = pid
        self._work = work
        self._stall = stall
        self._had_child = False
        self._alone_since_s = 0.0

    def reset(self) -> None:
        self._stall.reset()

    def hopeless(self) -> bool:
        size = criu.log_size(self._work, "restore")
        stalled = self._stall.stalled((size, process.read_bytes_below(self._pid)))
        return stalled or size > criu.LOG_MAX_BYTES or self._alone(time.monotonic())

    def _alone(self, now_s: float) -> bool:
        if process.has_child(self._pid, "criu"):
            self._had_child, self._alone_since_s = True, 0.0
        elif self._had_child:
            self._alone_since_s = self._alone_since_s or now_s
            return now_s - self._alone_since_s > _LEAVE_S
        return False
