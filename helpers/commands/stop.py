"""Stop a container: put it to sleep if its policy says so, else end it.

ExecStop= of torpor@.service. systemd also calls it when the container has ended by itself.
"""

import os
import sys
import time

from torpor import (
    checkpoint,
    criu,
    events,
    fault,
    images,
    jobs,
    last_rendering,
    limits,
    networking,
    notify,
    payload,
    preparation,
    pump,
    record,
    rendering,
    runc,
    state,
    timespan,
    vantage,
)
from torpor.cgroup import own_unit
from torpor.checkpoint import Dump
from torpor.commit import Commit, facts
from torpor.container import Container
from torpor.errors import CheckpointError, ContainerLostError, HungError, TorporError
from torpor.following import Following
from torpor.images import Generation
from torpor.last_rendering import Inputs
from torpor.lock import Lock
from torpor.patience import STOPPING, Patience, Stall, aside
from torpor.placeholder import Placeholder
from torpor.preparation import Plan
from torpor.talk import NOTICE, WARNING, mebibytes, report, say, warn
from torpor.turns import Turn
from torpor.vantage import Vantage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PUMP_TIMEOUT_S = 5.0
# Left of the unit's own timeout for us to say why, kill and clean.
_KILL_MARGIN_S = 2.0


def main(question: jobs.Question | None) -> None:
    """question is None when the container's init has ended by itself."""
    name = sys.argv[1]
    try:
        container = Container(name)
        with Lock(container):
            stop = _Stop(container, question)
            try:
                stop.run()
            finally:
                stop.release()
    except ContainerLostError as error:
        events.tell(events.LOST, container, error.message, hint=error.hint)
        os._exit(error.exit_code)
    except Exception as error:
        os._exit(report(name, error))
    os._exit(0)


class _Stop:
    def __init__(self, container: Container, question: jobs.Question | None) -> None:
        self._container = container
        self._pid = jobs.main_pid()  # the container's init
        self._question = question
        self._unit_cgroup = own_unit()
        self._cgroup = payload.cgroup_of(container, self._unit_cgroup)
        self._patience = Patience(container, STOPPING)
        self._placeholder: Placeholder | None = None
        self._lifted: list[tuple[str, str]] = []  # limits
        self._may_stand_inside = True  # of CRIU; see vantage
        self._began_s = time.monotonic()

    def run(self) -> None:
        if self._question is None:
            failed = jobs.unit_failed()
            why = f": {jobs.unit_result()}" if failed else ""
            self._leave(f"it ended by itself{why}", failed=failed)
            return
        inputs = self._inputs()
        cause = self._cause(inputs)
        if cause in inputs.checkpoint_on:
            try:
                generation, commit = self._sleep_at_last(inputs, cause)
            except ContainerLostError:
                raise
            except Exception as error:
                self._not_checkpointed(error)
            else:
                self._asleep(inputs, generation, commit)
                return
        self._end(inputs, cause)

    def _not_checkpointed(self, error: Exception) -> None:
        hint = getattr(error, "hint", "")
        events.tell(
            events.NOT_CHECKPOINTED,
            self._container,
            f"cannot checkpoint: {error}",
            hint=f"{hint}\nit is stopped without sleeping, and will start fresh".strip(),
        )

    def _inputs(self) -> Inputs:
        """As they are now, unless the rootfs or what else they are made from does not answer."""
        stall = Stall(self._patience)
        try:
            return aside(
                lambda: rendering.current_or_last(self._container),
                lambda: None,
                stall,
                lambda: None,
            )
        except HungError:
            if known := last_rendering.load(self._container):
                return known
            raise

    def _cause(self, inputs: Inputs) -> str:
        if os.path.exists(self._container.fresh_path):
            return "fresh"
        assert self._question is not None
        return self._question.answer()

    def _sleep_at_last(self, inputs: Inputs, cause: str) -> tuple[Generation, Commit]:
        """As _sleep, again where it fails for something that passes while the container runs on."""
        for pause_s in checkpoint.PAUSES_S:
            try:
                return self._sleep(inputs, cause)
            except CheckpointError as error:
                if vantage.is_in_the_way(error.message):
                    self._may_stand_inside = False
                elif not checkpoint.may_succeed(error, self._pid):
                    raise
                say(f"{self._container.name}: {error.message}: once more", NOTICE)
            time.sleep(pause_s)
        return self._sleep(inputs, cause)

    def _sleep(self, inputs: Inputs, cause: str) -> tuple[Generation, Commit]:
        """Put it to sleep; any error means that it goes on, but for ContainerLostError."""
        container, cgroup = self._container, self._cgroup
        current = state.read(container)
        if current.name == state.DUMPING:
            from torpor import unfinished  # seldom needed

            current = unfinished.settle(container, cgroup, current, inputs)
        if current.name not in (state.RUNNING, state.CONSUMED):
            raise CheckpointError(f"its state is {current.name}, not {state.RUNNING}")
        if inputs.obstacles:
            raise CheckpointError(*inputs.obstacles[0])
        checkpoint.preflight(container, cgroup)
        # No peer waits for a host that is rebooted, and a lock would not outlive that.
        tcp_lock = checkpoint.tcp_lock(inputs) if cause != jobs.SHUTDOWN else ""
        runc.detach_restore_root(container)
        waiting = notify.Progress("waiting until others are asleep")
        with Turn(lambda: self._patience.limit_s / 3, waiting) as turn:
            self._patience.spent_s += turn.in_vain_s
            return self._sleep_now(inputs, current, cause, tcp_lock)

    def _sleep_now(
        self, inputs: Inputs, current: state.State, cause: str, tcp_lock: str
    ) -> tuple[Generation, Commit]:
        container = self._container
        generation = images.next_generation(container, current.generation)
        reason = f"systemctl {cause}" if cause != jobs.SHUTDOWN else "shutdown"
        dumping = current.become(state.DUMPING, reason, generation=generation.number)
        state.write(container, dumping)
        fault.point("dumping")
        commit = self._dump(inputs, dumping, generation, reason, tcp_lock)
        fault.point("dumped")
        return generation, commit

    def _asleep(self, inputs: Inputs, generation: Generation, commit: Commit) -> None:
        """Clean up. What fails here costs nothing: the next start does it again."""
        container = self._container
        try:
            commit.finish()
            self._tidy(inputs, generation)
            pump.wait_for_end(container, self._unit_cgroup, _PUMP_TIMEOUT_S)
            self._clear()
        except (TorporError, OSError) as error:
            say(f"{container.name}: asleep, but not all is cleaned up: {error}", WARNING)
        took_s = time.monotonic() - self._began_s
        text = (
            f"generation {generation.number}, {mebibytes(commit.size_bytes)}, "
            f"frozen {commit.frozen_s:.2f} s, in {took_s:.2f} s"
        )
        events.tell(
            events.ASLEEP,
            container,
            f"asleep: {text}",
            generation=generation.number,
            image_bytes=commit.size_bytes,
            frozen_s=commit.frozen_s,
            took_s=took_s,
        )
        notify.status(f"asleep: {text}")

    def _dump(
        self,
        inputs: Inputs,
        dumping: state.State,
        generation: Generation,
        reason: str,
        tcp_lock: str,
    ) -> Commit:
        container, cgroup = self._container, self._cgroup
        commit: Commit | None = None
        following: Following | None = None
        try:
            generation.make()
            parent = self._ahead(generation)
            payload.save_bundle(container, generation)
            plan = preparation.read(container.plan_path)
            networking.save(container, plan, generation, self._pid)
            frozen_at_s = time.monotonic()
            checkpoint.freeze(cgroup, plan, self._patience)
            fault.point("frozen")
            standing = self._vantage(plan) if not tcp_lock else None
            self._lifted = limits.lift(cgroup)
            # Not before the freeze: an exit of its own would be lost.
            self._stand_in()
            notify.status("checkpointing")
            progress = notify.Progress(
                "checkpointing", lambda: f": {mebibytes(generation.size_bytes())} written"
            )
            following = Following(generation.images)
            commit = Commit(
                container,
                generation,
                cgroup,
                dumping,
                {
                    **facts(container, generation, dumping, plan),
                    "tcp-lock": tcp_lock,
                },
                inputs.sync_paths,
                plan,
                reason,
                frozen_at_s,
                following,
                progress,
                self._patience,
            )
            dump = Dump(
                container, generation, cgroup, progress, self._patience, tcp_lock, standing, parent
            )
            dump.run(self._after_stand_in(commit))
        except ContainerLostError as error:
            _abandon(following)
            self._lost(dumping, generation, error)
            raise
        except Exception as error:
            _abandon(following)
            self._go_on(dumping, generation, may_be_committed=bool(commit and commit.began))
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(str(error), getattr(error, "hint", "")) from error
        return commit

    def _ahead(self, generation: Generation) -> str:
        """What of its memory is there already, as runc is told."""
        if not os.path.exists(self._container.ahead_path):
            return ""
        from torpor import ahead  # before a move only

        return ahead.take(self._container, generation, self._pid)

    def _vantage(self, plan: Plan) -> Vantage | None:
        if not self._may_stand_inside:
            return None
        return vantage.of(self._container, plan, self._pid, self._cgroup.pids())

    def _stand_in(self) -> None:
        """From here on systemd does not see how the container's init ends."""
        self._placeholder = Placeholder(self._unit_cgroup)
        self._stands_in = notify.main_pid(self._placeholder.pid)

    def _after_stand_in(self, commit: Commit) -> "Callable[[], None]":
        """The commit, once it is sure that systemd will not see how the container's init ends."""

        def run() -> None:
            assert self._placeholder is not None
            self._placeholder.require_to_last()
            commit()

        return run

    def release(self) -> None:
        """Before this process ends, and the stand-in with it: systemd must have heard of it."""
        if self._placeholder is not None:
            self._stands_in.wait()

    def _go_on(
        self, dumping: state.State, generation: Generation, *, may_be_committed: bool
    ) -> None:
        """After CRIU rolled back: the container runs on, so its images are void before the thaw."""
        try:
            self._void(dumping, generation)
        except OSError as error:
            if may_be_committed:
                # Its images would be restored after it ran on: it must not, and what the record
                # says holds.
                self._cgroup.kill(payload.KILL_TIMEOUT_S)
                raise ContainerLostError(
                    f"its images can neither be kept nor voided: {error}", "see: dmesg | tail"
                ) from error
            # DUMPING is as good a record.
        fault.point("voided")
        if self._placeholder is not None:
            notify.main_pid(self._pid).wait()
            self._placeholder.end()
            self._placeholder = None
        warn(self._container.name, limits.put_back(self._cgroup, self._lifted))
        self._cgroup.thaw()
        images.remove(generation.path)

    def _void(self, dumping: state.State, generation: Generation) -> None:
        """Make sure that nothing restores a generation. Raises OSError."""
        try:
            state.write(self._container, dumping.become(state.RUNNING, "its checkpoint failed"))
        except OSError:
            record.remove_durably(generation.manifest)  # without it nothing is restored

    def _lost(self, dumping: state.State, generation: Generation, error: TorporError) -> None:
        """CRIU left its tasks half taken over: they must not run on."""
        self._cgroup.kill(payload.KILL_TIMEOUT_S)
        images.remove(generation.path)  # first: no record of it may be followed, nor fail to fit
        state.write(self._container, dumping.become(state.NONE, error.message))
        self._clear()

    def _tidy(self, inputs: Inputs, generation: Generation) -> None:
        generation.keep_statistics()
        if inputs.keep_logs:
            criu.keep_log(generation.work, "dump", self._container.log_path("dump"))
        else:
            images.remove(generation.work)
            record.make_directory(generation.work)
        images.forget_older(self._container, inputs.keep - 1, but=generation.number)

    def _end(self, inputs: Inputs, cause: str) -> None:
        """A real stop: the stop signal, and SIGKILL when the unit's timeout is nearly over."""
        reason = "stopped fresh" if cause == "fresh" else f"ended by {cause}"
        self._cgroup.thaw()  # a dry run that was killed may have left it frozen
        if payload.ignores(self._pid, inputs.stop_signal):
            say(
                f"{self._container.name}: its PID 1 does not handle signal {inputs.stop_signal}: "
                "killing it (stop-signal: names another)",
                NOTICE,
            )
            self._stand_in()
            self._cgroup.kill(payload.KILL_TIMEOUT_S)
            self._leave(reason)
            return
        timeout_s = timespan.of_unit(self._container, STOPPING) - _KILL_MARGIN_S
        timeout_s = max(1.0, timeout_s - self._patience.spent_s)
        if time.monotonic() - self._began_s > 1:
            # A dump was tried first: but for what it hung, the program gets its whole time.
            notify.extend(int(timeout_s + 2 * _KILL_MARGIN_S), "stopping without sleeping")
        if not payload.signal_and_wait(self._pid, inputs.stop_signal, timeout_s):
            say(
                f"{self._container.name}: still there {timeout_s:.0f} s after signal "
                f"{inputs.stop_signal}: killing it",
                WARNING,
            )
            self._cgroup.kill(payload.KILL_TIMEOUT_S)
        self._leave(reason)

    def _clear(self) -> None:
        warn(self._container.name, payload.clear(self._container, self._cgroup))

    def _leave(self, reason: str, *, failed: bool = False) -> None:
        """The container is dead: wait for its last lines and clean up."""
        pump.wait_for_end(self._container, self._unit_cgroup, _PUMP_TIMEOUT_S)
        self._clear()
        ended = payload.record_end(self._container, reason, failed=failed)
        warn(self._container.name, ended)


def _abandon(following: Following | None) -> None:
    if following is not None:
        following.abandon()
