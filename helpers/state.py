"""What is durably known of a container, and what its next start must do.

The record lies in /var/lib/torpor/NAME/state. Hooks read and write it: no imports
beyond ``os`` and this package's plain modules.
"""

import os
import time

from torpor import history, record
from torpor.container import Container
from torpor.errors import RecordError

NONE = "NONE"  # no memory to restore
RUNNING = "RUNNING"  # it runs, or ran, later than any image
EXITED = "EXITED"  # it ended by itself or by a real stop
CRASHED = "CRASHED"  # it ended, and systemd calls that a failure
DUMPING = "DUMPING"  # a dump began and did not end
COMMITTED = "COMMITTED"  # images are durable; its tasks are frozen, not yet dead
READY = "READY"  # images are durable and its tasks are dead
RESTORING = "RESTORING"  # a restore began; the container's code has not run
CONSUMED = "CONSUMED"  # the container's code may have run again
DAMAGED = "DAMAGED"  # its images were set aside; its policy does not want a fresh start
REPLACING = "REPLACING"  # images are durable; its files are not yet all those of their moment
LEAVING = "LEAVING"  # images are durable; another host may have taken it over: see leaving
MOVED = "MOVED"  # another host has taken it over, and its memory is there

RESTORABLE = frozenset((COMMITTED, READY, RESTORING, REPLACING, LEAVING))
# It ran when its record was written, or ended in a failure.
_CRASHED = frozenset((RUNNING, CONSUMED, DUMPING, CRASHED))
STATES = frozenset((NONE, EXITED, DAMAGED, MOVED)) | RESTORABLE | _CRASHED

# A restore that was killed says nothing about its images; one that was killed
# this often is taken for the cause.
MAX_RESTORE_ATTEMPTS = 3


def boot_id() -> str:
    """The kernel's random id of this boot (proc_sys_kernel(5))."""
    fd = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 64).decode().strip()
    finally:
        os.close(fd)


class State:
    """One state record. Values do not change: ``become`` makes the next one."""

    __slots__ = (
        "attempt",
        "boot",
        "frozen_s",
        "generation",
        "inputs",
        "name",
        "reason",
        "rootfs",
        "since_s",
    )

    def __init__(
        self,
        name: str = NONE,
        *,
        generation: int = 0,
        boot: str = "",
        since_s: float = 0.0,
        attempt: int = 0,
        reason: str = "",
        inputs: str = "",
        rootfs: str = "",
        frozen_s: float = 0.0,
    ) -> None:
        self.name = name
        self.generation = generation  # the newest number ever given to images
        self.boot = boot  # the boot in which this state was entered
        self.since_s = since_s  # UNIX time
        self.attempt = attempt  # restores begun of this generation
        self.reason = reason  # for people: why the last transition happened
        self.inputs = inputs  # digest of the definition that the running container was made from
        self.rootfs = rootfs  # identity of the rootfs that it runs on
        self.frozen_s = frozen_s  # how long its processes stood still before they were dead

    def become(
        self,
        name: str,
        reason: str,
        *,
        generation: int | None = None,
        attempt: int = 0,
        inputs: str | None = None,
        rootfs: str | None = None,
        frozen_s: float = 0.0,
    ) -> "State":
        return State(
            name,
            generation=self.generation if generation is None else generation,
            boot=boot_id(),
            since_s=time.time(),
            attempt=attempt,
            reason=reason,
            inputs=self.inputs if inputs is None else inputs,
            rootfs=self.rootfs if rootfs is None else rootfs,
            frozen_s=frozen_s,
        )

    def after_snapshot(self, number: int) -> "State":
        """It runs as before, but that images have this number now."""
        return State(
            RUNNING,
            generation=number,
            boot=self.boot,
            since_s=self.since_s,
            reason=self.reason,
            inputs=self.inputs,
            rootfs=self.rootfs,
        )


def parse(text: bytes, where: str) -> State:
    """A state from a record's bytes; RecordError for anything else."""
    pairs = record.parse(text, "state", where)
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise RecordError(f"{where}: a state record says something twice")
    try:
        name = fields["state"]
        if name not in STATES:
            raise RecordError(f"{where}: unknown state {name[:40]!r}")
        return State(
            name,
            generation=record.number(fields["generation"]),
            boot=fields["boot"],
            since_s=record.seconds(fields["since"]),
            attempt=record.number(fields["attempt"]),
            reason=fields["reason"],
            inputs=fields["inputs"],
            rootfs=fields["rootfs"],
            frozen_s=record.seconds(fields["frozen"]),
        )
    except (KeyError, ValueError) as error:
        raise RecordError(f"{where}: {error!r} in a state record") from error


def read(container: Container) -> State:
    """The container's state; NONE where no record was ever written."""
    text = record.read_bytes(container.state_path)
    return State() if text is None else parse(text, container.state_path)


def write(container: Container, state: State, *, size_bytes: int = 0, why: str = "") -> None:
    """Enter a state durably.

    The history says so too: how large the images are, and why where the reason does not tell.
    """
    record.make_directory(container.state_dir)
    pairs = [
        ("state", state.name),
        ("generation", str(state.generation)),
        ("boot", state.boot),
        ("since", f"{state.since_s:.6f}"),
        ("attempt", str(state.attempt)),
        ("reason", state.reason),
        ("inputs", state.inputs),
        ("rootfs", state.rootfs),
        ("frozen", f"{state.frozen_s:.6f}"),
    ]
    step = f"state-{state.name}"
    record.write_durably(container.state_path, record.serialize("state", pairs), step)
    figures = [
        ("since", f"{state.since_s:.6f}"),
        ("state", state.name),
        ("generation", str(state.generation)),
        ("boot", state.boot),
        ("attempt", str(state.attempt)),
        ("frozen", f"{state.frozen_s:.6f}"),
        ("size", str(size_bytes)),
    ]
    history.append(container, figures, why or state.reason)


# What the next start does.
COLD = "cold"
WAKE = "wake"
GIVE_UP = "give-up"
REFUSE = "refuse"
REPLACE = "replace"
AWAY = "away"


def plan(state: State) -> str:
    """What a start must do with a container found in this state.

    Whatever is left of an earlier run has been killed by then, frozen, and so without running
    on: that is what makes COMMITTED as good as READY.
    """
    if state.name in (READY, COMMITTED):
        return WAKE
    if state.name == RESTORING:
        return WAKE if state.attempt < MAX_RESTORE_ATTEMPTS else GIVE_UP
    if state.name == DAMAGED:
        return REFUSE
    if state.name == REPLACING:
        return REPLACE
    if state.name in (LEAVING, MOVED):
        return AWAY
    return COLD


def has_crashed(state: State) -> bool:
    """Whether a container found in this state, without processes, did not end in order."""
    return state.name in _CRASHED


def after_end(state: State, reason: str, *, failed: bool = False) -> State | None:
    """The record of a container whose processes are dead now; None where it says so already."""
    if state.name in (RUNNING, CONSUMED):
        return state.become(CRASHED if failed else EXITED, reason)
    if state.name == DUMPING:
        return state.become(CRASHED if failed else NONE, "its checkpoint was cut off")
    return None
