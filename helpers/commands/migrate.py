"""Move a container to another host, through ssh: it goes on there exactly where it was here."""

import argparse
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torpor import (
    departure,
    estimate,
    last_rendering,
    leaving,
    link,
    offer,
    payload,
    precopy,
    preparation,
    process,
    state,
)
from torpor.container import Container
from torpor.departure import Sleeper
from torpor.errors import TorporError
from torpor.jobs import STOP
from torpor.leaving import Leaving
from torpor.link import Link, LinkError
from torpor.lock import Lock
from torpor.offer import Offer
from torpor.systemd import Unit
from torpor.talk import NOTICE, WARNING, mebibytes, say, warn

_ASK_AGAIN_S = (1.0, 2.0, 5.0, 10.0)
_PUMP_S = 60.0
_LITTLE_BYTES = 4 << 20  # not worth another round
_SIGNALS = (signal.SIGHUP, signal.SIGTERM)
_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the container, running or asleep")
    parser.add_argument(
        "host", metavar="HOST", nargs="?", help="as ssh takes it: where torpor is installed, too"
    )
    root = parser.add_mutually_exclusive_group()
    root.add_argument("--image", metavar="IMAGE", help="where the image is there, if elsewhere")
    root.add_argument("--rootfs", metavar="DIR", help="a root file system that is there already")
    parser.add_argument(
        "--pre-dump",
        metavar="ROUNDS",
        type=int,
        default=0,
        help="copy its memory as often while it runs, each time what it wrote meanwhile",
    )
    parser.add_argument("--asleep", action="store_true", help="do not wake it there")
    after = parser.add_mutually_exclusive_group()
    after.add_argument(
        "--again", action="store_true", help="after one that was cut off: find out how it ended"
    )
    after.add_argument(
        "--stay", action="store_true", help="after one that was cut off, by your word: it is here"
    )


def run(options: argparse.Namespace) -> int:
    container = Container(options.name)
    if options.again or options.stay:
        return _go_on(container, options)
    if not options.host or not link.is_host(options.host):
        raise TorporError("say where to", f"torpor migrate {container.name} HOST", exit_code=2)
    current = state.read(container)
    if state.plan(current) == state.AWAY:
        raise leaving.refusal(container, current)
    with _in_order():
        return _move(container, options)


@contextmanager
def _in_order() -> Iterator[None]:
    """A lost terminal ends this as Ctrl-C does: what can go on here does so."""

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt

    before = [(number, signal.signal(number, interrupt)) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _move(container: Container, options: argparse.Namespace) -> int:
    ran = Unit(container).runs
    if options.pre_dump:
        precopy.require(options.pre_dump)
    offered = _offer(container, options, ran=ran)
    with Link(options.host) as there:
        there.tell(link.TAKE, offer.dumps(offered))
        doubts = there.hear(link.COME)["doubts"]
        warn(container.name, [f"{options.host}: {doubt}" for doubt in doubts])
        if options.pre_dump and ran:
            _copy_ahead(container, there, options.pre_dump)
        began_s = time.monotonic()
        with _here_again(container, ran=ran):
            if ran:
                _put_to_sleep(container)
            with Lock(container):
                size_bytes = _send(container, there)
                _hand_over(container, there, offered, ran=ran)
        return _report(container, there, offered, size_bytes, began_s if ran else None)


def _offer(container: Container, options: argparse.Namespace, *, ran: bool) -> Offer:
    inputs = last_rendering.load(container)
    if inputs is None:
        raise TorporError(
            f"{container.name} never ran: there is nothing to move but its definition",
            f"copy {container.definition_path}",
        )
    if ran and STOP not in inputs.checkpoint_on:
        raise TorporError(
            f"{container.name} would not sleep on a stop", "checkpoint: on: must have 'stop'"
        )
    if ran and inputs.obstacles:
        raise TorporError(f"{container.name} would not sleep: {inputs.obstacles[0][0]}")
    plan = preparation.read(container.plan_path if ran else container.planned_path)
    return offer.of(
        container,
        plan,
        _size_bytes(container, ran=ran),
        image=options.image or "",
        digest=inputs.image or "",
        rootfs=os.path.abspath(options.rootfs) if options.rootfs else "",
        starts=not options.asleep,
        enables=_systemctl("is-enabled", "--quiet", container.unit) == 0,
    )


def _size_bytes(container: Container, *, ran: bool) -> int:
    """About; raises TorporError where there is nothing that could move."""
    if not ran:
        return Sleeper(container).manifest.size_bytes
    cgroup = payload.cgroup_of(container, Unit(container).cgroup)
    return estimate.size_bytes(container, cgroup, cgroup.pids())


def _copy_ahead(container: Container, there: Link, most: int) -> None:
    """Send its memory while it runs; what it writes meanwhile in the next round."""
    rounds = precopy.Rounds(container)
    try:
        for _ in range(most):
            with Lock(container, wait=False):
                made = rounds.make()
            there.tell(link.ROUND)
            _stream(there, made.write)
            there.hear(link.GOT)
            size_bytes = made.size_bytes()
            say(f"{container.name}: round {made.number}: {mebibytes(size_bytes)} sent", NOTICE)
            if size_bytes < _LITTLE_BYTES:
                break
        rounds.offer()
    except BaseException:
        rounds.clear()
        raise


def _put_to_sleep(container: Container) -> None:
    if _systemctl("stop", container.unit) or state.read(container).name != state.READY:
        raise TorporError(
            f"{container.name} did not fall asleep",
            f"see: journalctl --unit={container.unit}; torpor status {container.name}",
        )


@contextmanager
def _here_again(container: Container, *, ran: bool) -> Iterator[None]:
    """Where it did not leave after all it goes on as before; a stop under way is waited for."""
    try:
        yield
    except BaseException:
        stops = Unit(container).active_state == "deactivating"
        if ran and (stops or state.read(container).name == state.READY):
            _wake(container)
        raise


def _wake(container: Container) -> None:
    if _systemctl("start", container.unit) == 0:
        say(f"{container.name}: it goes on here", NOTICE)
    else:
        say(f"{container.name}: it sleeps here, and could not be woken", WARNING)


def _send(container: Container, there: Link) -> int:
    """Have all of it on the other host's disk; how many bytes that were, before zstd."""
    sleeper = Sleeper(container)
    base = departure.base_image(sleeper, None)
    with departure.load(sleeper) as carried:
        total_bytes = departure.total_bytes(sleeper, carried)
        there.tell(link.ARCHIVE)
        _stream(there, lambda fd: departure.pack(sleeper, carried, base, fd))
    there.hear(link.PREPARED)
    return total_bytes


def _stream(there: Link, write: Callable[[int], None]) -> None:
    """Send what write writes to the descriptor it is given."""
    source, target = os.pipe()
    pump = there.send(source)
    os.close(source)
    try:
        write(target)
    except TorporError:
        there.hear()  # if it was the other host that wanted no more, it says why
        raise
    finally:
        os.close(target)
        status = pump.wait(_PUMP_S)
        pump.kill()
    if status:
        there.hear()


def _hand_over(container: Container, there: Link, offered: Offer, *, ran: bool) -> None:
    leaving.begin(container, Leaving(there.host, offered.token, ran))
    try:
        there.tell(link.SETTLE)
        there.hear(link.HERE)
    except TorporError as error:  # whatever it was: that host may have it
        say(f"{container.name}: {error.message}: asking again", WARNING)
        arrived = _outcome(container, leaving.load(container))
        if not arrived:
            raise TorporError(f"{container.name} did not get to {there.host}: {error}") from error
    else:
        _gone(container, there.host)


def _gone(container: Container, host: str) -> None:
    leaving.go(container, host)
    _systemctl("disable", "--quiet", container.unit)


def _outcome(container: Container, known: Leaving) -> bool:
    """Whether it arrived, asked until that is known; what is recorded here follows it."""
    for pause_s in (*_ASK_AGAIN_S, None):
        try:
            arrived = _ask(container, known)
        except TorporError as error:
            if pause_s is None:
                raise TorporError(
                    f"nobody knows whether {container.name} arrived at {known.host}: "
                    f"{error.message}",
                    leaving.refusal(container, state.read(container)).hint,
                    exit_code=_TRY_AGAIN,
                ) from error
            time.sleep(pause_s)
        else:
            break
    if arrived:
        _gone(container, known.host)
    else:
        leaving.stay(container, f"it did not get to {known.host}")
    return arrived


def _ask(container: Container, known: Leaving) -> bool:
    with Link(known.host) as there:
        there.tell(link.OUTCOME, offer.question(container.name, known.token))
        return bool(there.hear(link.HERE, link.LACKS)["say"] == link.HERE)


def _report(
    container: Container, there: Link, offered: Offer, size_bytes: int, began_s: float | None
) -> int:
    """What became of it there; an exit status."""
    what = f"{container.name}: moved to {there.host}, {mebibytes(size_bytes)}"
    try:
        said = there.hear(link.AWAKE, link.ASLEEP, link.FRESH)
    except LinkError:
        said = {"say": link.ASLEEP, "problem": "the connection was cut off before it woke"}
    if said["say"] == link.AWAKE:
        away = f"; it was away for {time.monotonic() - began_s:.2f} s" if began_s else ""
        say(f"{what}: awake{away}", NOTICE)
        return 0
    if said["say"] == link.FRESH:
        say(f"{what}: it could not be restored there, and started fresh", WARNING)
    else:
        say(f"{what}: it sleeps there", NOTICE)
    if offered.starts:
        say(f"{container.name}: {there.host}: {said['problem']}", WARNING)
    return int(offered.starts)


def _go_on(container: Container, options: argparse.Namespace) -> int:
    """After a move that was cut off."""
    with Lock(container, wait=False):
        current = state.read(container)
        if current.name != state.LEAVING:
            raise TorporError(
                f"{container.name} is not leaving: its state is {current.name}",
                f"to move it: torpor migrate {container.name} HOST",
            )
        known = leaving.load(container)
        if options.stay:
            leaving.stay(container, f"it is here, as somebody said who gave {known.host} up")
            arrived = False
        else:
            arrived = _outcome(container, known)
    if arrived:
        say(f"{container.name}: it arrived at {known.host}", NOTICE)
    elif known.ran:
        _wake(container)
    else:
        say(f"{container.name}: it sleeps here", NOTICE)
    return 0


def _systemctl(*words: str) -> int:
    return process.spawn(["systemctl", *words]).wait() or 0
