"""Taking a snapshot of a container that goes on: its memory, and the files that belong to it.

The work is done by a child. Whichever of the two is killed, the other lets the container go on.
"""

import os
import signal
import time
from collections.abc import Callable
from typing import NamedTuple, TextIO

from torpor import (
    capture,
    checkpoint,
    commit,
    criu,
    events,
    images,
    last_rendering,
    payload,
    preparation,
    process,
    program,
    record,
    runc,
    snapshots,
    state,
    unfinished,
)
from torpor.cgroup import Cgroup
from torpor.container import Container
from torpor.errors import BusyError, CheckpointError, ContainerLostError, StoppedError, TorporError
from torpor.last_rendering import Inputs
from torpor.lock import Lock
from torpor.moment import Moment
from torpor.patience import STOPPING, Patience, Stall
from torpor.preparation import Plan
from torpor.snapshots import Snapshot
from torpor.systemd import Unit
from torpor.talk import mebibytes, report, warn

_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
_LOOK_S = 0.9  # between two looks whether the container is to stop
_ORPHANS_S = 60.0
_IN_ORDER = ("runc", "criu")
_ORPHANS_TICK_S = 0.02


def take(container: Container, out: TextIO, *, forgets: bool = True) -> tuple[int, int]:
    """Take one, and say on out how large it is, or else why not; an exit status, and its number.

    forgets: remove those that are too many then. Raises TorporError.
    """
    asked: list[int] = []
    before = [(number, signal.getsignal(number)) for number in _SIGNALS]
    for number in _SIGNALS:
        signal.signal(number, lambda number, _: asked.append(number))
    try:
        with Lock(container, wait=False):
            status = _take_in_child(container, asked, out, forgets)
            return status, 0 if status else snapshots.known(container)[-1].number
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _take_in_child(container: Container, asked: list[int], out: TextIO, forgets: bool) -> int:
    """The child's exit status."""
    _adopt_orphans()
    pid = os.fork()
    if pid == 0:
        os._exit(_work(container, lambda: bool(asked), out, forgets))
    for number in _SIGNALS:
        signal.signal(number, lambda number, _: _tell(pid, number))
    if asked:
        _tell(pid, asked[0])
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status < 0:
        _await_orphans()
        _settle(container)
        raise TorporError(
            f"the snapshot of {container.name} was cut off by signal {-status}",
            "the container goes on; take it again",
        )
    return status


def _adopt_orphans() -> None:
    import prctl

    prctl.set_child_subreaper(1)


def _tell(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _await_orphans() -> None:
    """runc and CRIU end by themselves: with the child, the answer that they wait for is gone."""
    deadline_s = time.monotonic() + _ORPHANS_S
    while True:
        for pid in process.children(os.getpid()):
            if process.name(pid) not in _IN_ORDER or time.monotonic() > deadline_s:
                process.kill_tree(pid)
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(_ORPHANS_TICK_S)
        except ChildProcessError:
            return


def _settle(container: Container) -> None:
    """Let the container go on, and leave nothing of the snapshot."""
    unit = Unit(container)
    inputs = _inputs(container)
    cgroup = payload.cgroup_of(container, unit.cgroup)
    unfinished.settle(container, cgroup, state.read(container), inputs)
    snapshots.sweep(container)


def _work(container: Container, asked: Callable[[], bool], out: TextIO, forgets: bool) -> int:
    try:
        taking = _Taking(container, asked, out)
        taking.run()
        if forgets:
            taking.forget_surplus()
        out.flush()
    except Exception as error:
        return report(container.name, error)
    return 0


def _inputs(container: Container) -> Inputs:
    inputs = last_rendering.load(container)
    if inputs is None:
        raise TorporError(
            f"{container.inputs_path} is gone, which says what {container.name} is made from",
            f"start it again: systemctl restart {container.unit}",
        )
    return inputs


class _Taken(NamedTuple):
    """A moment that is kept, not yet durably."""

    snapshot: Snapshot
    plan: Plan
    facts: dict[str, str]
    frozen_s: float


class _Taking:
    """One snapshot of a running container, whose lock is held."""

    def __init__(self, container: Container, asked: Callable[[], bool], out: TextIO) -> None:
        self._container = container
        self._asked = asked  # whether somebody wants us to end
        self._out = out
        self._unit = Unit(container)
        self._inputs = _inputs(container)
        self._patience = Patience(container, STOPPING)
        self._looked_s = time.monotonic()
        self._began_s = self._looked_s
        self._given_up: StoppedError | None = None

    def run(self) -> None:
        container, inputs = self._container, self._inputs
        self._require_running()
        runc.check_ours(container)
        cgroup = payload.cgroup_of(container, self._unit.cgroup)
        current = unfinished.settle(container, cgroup, state.read(container), inputs)
        if current.name not in (state.RUNNING, state.CONSUMED):
            raise TorporError(f"the state of {container.name} is {current.name}, not RUNNING")
        if inputs.obstacles:
            message, hint = inputs.obstacles[0]
            raise TorporError(f"{container.name} cannot be saved: {message}", hint)
        snapshots.sweep(container)
        checkpoint.preflight(container, cgroup)
        self._seal(self._take_at_last(cgroup, current))

    def _require_running(self) -> None:
        if not self._unit.runs:
            raise TorporError(
                f"{self._container.name} is not running: it has no moment to keep",
                f"start it first: systemctl start {self._container.unit}",
            )

    def _look(self) -> None:
        """Raise StoppedError where the container is to stop: that waits for the lock."""
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_S and not self._asked():
            return
        self._looked_s = now_s
        if self._asked() or not self._unit.runs:
            self._given_up = StoppedError(
                "given up: the container, or this, is to stop", exit_code=BusyError.exit_code
            )
            raise self._given_up

    def _take_at_last(self, cgroup: Cgroup, current: state.State) -> _Taken:
        """Again where it fails for something that passes while the container runs on."""
        for pause_s in checkpoint.PAUSES_S:
            try:
                return self._take(cgroup, current)
            except CheckpointError as error:
                if not checkpoint.may_succeed(error, runc.init_pid(self._container)):
                    raise
            time.sleep(pause_s)
            current = state.read(self._container)
        return self._take(cgroup, current)

    def _take(self, cgroup: Cgroup, current: state.State) -> _Taken:
        container = self._container
        snapshot = Snapshot(container, images.next_number(container, current.generation))
        plan = preparation.read(container.plan_path)
        places = capture.of(container, self._inputs, plan, read_only=_is_read_only(container))
        dumping = current.become(state.DUMPING, "snapshot", generation=snapshot.number)
        state.write(container, dumping)
        moment = Moment(container, snapshot, cgroup, plan, places, self._patience, self._look)
        try:
            moment.keep()
            facts = commit.facts(container, snapshot, dumping, plan)
        except ContainerLostError as error:
            cgroup.kill(payload.KILL_TIMEOUT_S)
            snapshots.remove(snapshot)
            state.write(container, dumping.become(state.CRASHED, error.message))
            events.note(events.LOST, container, error.message)
            raise
        except BaseException as error:
            self._go_on(current, snapshot)
            self._drop(snapshot)
            raise (self._given_up or error) from error
        self._go_on(current, snapshot)
        return _Taken(snapshot, plan, facts, moment.frozen_s)

    def _go_on(self, current: state.State, snapshot: Snapshot) -> None:
        """It runs already, but for the record."""
        container = self._container
        try:
            state.write(container, current.after_snapshot(snapshot.number))
        except OSError as error:  # DUMPING costs nothing: whoever comes next looks at the log
            warn(container.name, [f"that it runs on is not recorded: {error}"])

    def _drop(self, snapshot: Snapshot) -> None:
        """Remove half a snapshot; where a stop waits for us, the next start does."""
        if not self._given_up:
            snapshots.remove(snapshot)

    def _seal(self, taken: _Taken) -> None:
        """Make it durable while the container runs: nobody relies on it before its manifest."""
        snapshot = taken.snapshot
        try:
            self._tidy(snapshot)
            capture.sync(snapshot.files, self._look, Stall(self._patience))
            files_bytes = capture.size_bytes(snapshot.files)
            facts = {**taken.facts, snapshots.FILES_BYTES: str(files_bytes)}
            manifest = images.seal(snapshot, facts, self._look, Stall(self._patience))
        except BaseException:
            self._drop(snapshot)
            raise
        took_s = time.monotonic() - self._began_s
        events.tell(
            events.SNAPSHOT,
            self._container,
            f"snapshot {snapshot.number}: "
            f"{mebibytes(manifest.size_bytes)} of memory, {mebibytes(files_bytes)} of files, "
            f"frozen {taken.frozen_s:.2f} s, in {took_s:.2f} s",
            generation=snapshot.number,
            out=self._out,
            image_bytes=manifest.size_bytes,
            files_bytes=files_bytes,
            frozen_s=taken.frozen_s,
            took_s=took_s,
        )
        for one in capture.shared(self._container, taken.plan):
            print(f"{self._container.name}: not in it: {one}", file=self._out)

    def _tidy(self, snapshot: Snapshot) -> None:
        if self._inputs.keep_logs:
            criu.keep_log(snapshot.work, "dump", self._container.log_path("dump"))
        images.remove(snapshot.work)
        record.make_directory(snapshot.work)

    def forget_surplus(self) -> None:
        inputs = self._inputs
        going = snapshots.void_surplus(
            self._container, inputs.snapshots_keep, inputs.snapshots_max_bytes
        )
        snapshots.sweep(self._container, self._rm)
        if going:
            said = f"removed {', '.join(map(str, going))}, as configured"
            print(f"{self._container.name}: {said}", file=self._out)

    def _rm(self, path: str) -> str:
        """As atomic_directory.remove(), but that a stop does not wait for it."""
        argv = ["rm", "-rf", "--one-file-system", "--", path]
        return program.watch(argv, self._look, Stall(self._patience), sign=time.monotonic)


def _is_read_only(container: Container) -> bool:
    """Whether its config leaves it no way to write to its root file system."""
    import json

    config = json.loads(record.read_bytes(f"{container.bundle}/config.json") or b"{}")
    return bool(config.get("root", {}).get("readonly"))
