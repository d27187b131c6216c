"""What is measured, a section for each kind of question."""

import json
import os
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from contestants import (
    PLACE,
    UNITS,
    Contestant,
    Podman,
    PodmanCrun,
    Quadlet,
    Runc,
    RuncUnit,
    SyncedRunc,
    Torpor,
    settle,
)
from samples import Samples, in_turns, say
from watch import BenchError, milliseconds, run, until_running

# A dump that waited for CRIU's next look at a cgroup it freezes (alarm in freezer.c: 100 ms)
_POLLED_MS = 50.0


def starts(samples: Samples, rounds: int) -> None:
    """Cold starts, until the program runs and who was asked has returned."""
    kinds = (Torpor, RuncUnit, Quadlet, Runc, Podman, PodmanCrun)
    contestants = [kind(f"s-{number}", 1) for number, kind in enumerate(kinds)]
    for each in contestants:
        each.make()

    def measure(each: Contestant, counts: bool) -> None:
        settle(each)
        took_ms = milliseconds(each.started)
        each.end()
        if counts:
            samples.add("start", each.kind, took_ms)

    in_turns(contestants, rounds, measure)
    _remove(contestants)


def rounds_of(samples: Samples, rounds: int, mib: int, *, cold: bool) -> None:
    """Sleeps and wakes of one container of each kind."""
    kinds = (Torpor, Runc, SyncedRunc, RuncUnit, Podman, PodmanCrun)
    contestants = [kind(f"m{mib}-{number}", mib) for number, kind in enumerate(kinds)]
    contestants = [each for each in contestants if _sleeps_and_wakes(each)]
    bytes_of = Bytes(mib)

    def measure(each: Contestant | Bytes, counts: bool) -> None:
        if isinstance(each, Bytes):
            each.measure(samples if counts else None, cold=cold)
            return
        settle(each)
        slept_ms = milliseconds(each.sleep)
        each.clear()
        settle(each)
        if cold:
            each.forget_pages()
        woke_ms = milliseconds(each.woken)
        if counts:
            samples.add(f"sleep {mib} MiB", each.kind, slept_ms)
            samples.add(f"wake {mib} MiB{', cold' if cold else ''}", each.kind, woke_ms)
            if type(each) is Runc:
                mode = "polled" if each.freezing_ms() > _POLLED_MS else "not polled"
                samples.add(f"sleep {mib} MiB", f"runc, {mode}", slept_ms)

    everybody: list[Contestant | Bytes] = [*contestants, bytes_of]
    in_turns(everybody, rounds, measure)
    bytes_of.remove()
    _remove(contestants)


def _sleeps_and_wakes(each: Contestant) -> bool:
    """Start it, and try: not everybody can on every host."""
    each.make()
    each.started()
    try:
        each.sleep()
        each.clear()
        settle(each)
        each.woken()
    except BenchError as error:
        say(f"{each.kind} is left out: {error}")
        return False
    return True


class Bytes:
    """As many bytes as the images have, by themselves."""

    def __init__(self, mib: int) -> None:
        self._mib = mib
        self._source = Path("/run/bench-bytes")
        self._target = PLACE / "bytes"
        with self._source.open("wb") as file:
            for _ in range(mib):
                file.write(os.urandom(1 << 20))

    def measure(self, samples: Samples | None, *, cold: bool) -> None:
        for whom, options in (("dd", ()), ("dd, fsync", ("conv=fsync",))):
            took_ms = self._write(options)
            if samples:
                samples.add(f"sleep {self._mib} MiB", whom, took_ms)
        if cold:
            fd = os.open(self._target, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
        took_ms = milliseconds(lambda: self._dd(self._target, Path("/dev/null"), ()))
        if samples:
            samples.add(f"wake {self._mib} MiB{', cold' if cold else ''}", "dd", took_ms)

    def _write(self, options: Sequence[str]) -> float:
        self._target.unlink(missing_ok=True)
        os.sync()
        return milliseconds(lambda: self._dd(self._source, self._target, options))

    def _dd(self, source: Path, target: Path, options: Sequence[str]) -> None:
        run(["dd", f"if={source}", f"of={target}", "bs=1M", *options])

    def remove(self) -> None:
        self._source.unlink()
        self._target.unlink()


def many(samples: Samples, rounds: int, count: int) -> None:
    """Many containers at once: ours by one systemctl, podman at several numbers of calls."""
    ours = [Torpor(f"t{number}", 8, 20) for number in range(count)]
    theirs = [Podman(f"p{number}", 8, 20) for number in range(count)]
    for each in (*ours, *theirs):
        each.make()
        each.started()

    def measure(parallel: int, counts: bool) -> None:
        group: Sequence[Contestant] = theirs if parallel else ours
        whom = f"podman, {parallel} at once" if parallel else "torpor"
        os.sync()
        time.sleep(0.2)
        slept_ms = milliseconds(lambda: _all(group, parallel, "sleep"))
        os.sync()
        time.sleep(0.2)
        woke_ms = milliseconds(lambda: _all(group, parallel, "wake"))
        if counts:
            samples.add(f"sleep of {count}", whom, slept_ms)
            samples.add(f"wake of {count}", whom, woke_ms)

    in_turns((0, 1, 2, 4), rounds, measure)
    _memory(samples, [*ours, *theirs])
    _remove([*ours, *theirs])


def _all(group: Sequence[Contestant], parallel: int, verb: str) -> None:
    ours = [each.unit for each in group if isinstance(each, Torpor)]
    if ours:
        run(["systemctl", "stop" if verb == "sleep" else "start", *ours])
    else:
        with ThreadPoolExecutor(parallel) as pool:
            list(pool.map(lambda each: getattr(each, verb)(), group))
    if verb == "wake":
        for each in group:
            until_running(each.name)


def _memory(samples: Samples, containers: Sequence[Torpor | Podman]) -> None:
    for each in containers:
        samples.add("memory", each.kind, each.resident_kib())


def growth(samples: Samples, counts: Sequence[int]) -> None:
    """More and more containers of ours, all at once."""
    containers: list[Torpor] = []
    for count in counts:
        for number in range(len(containers), count):
            each = Torpor(f"g{number}", 1, 100)
            each.make()
            containers.append(each)
        for each in containers:
            each.start()
        for what in ("sleep", "wake"):
            samples.add(f"{what} of more and more", str(count), _all_at_once(containers, what))
        kib = sum(each.resident_kib() for each in containers)
        samples.add("memory of more and more", str(count), kib)
    _remove(containers)


def _all_at_once(group: Sequence[Contestant], what: str) -> float:
    return milliseconds(lambda: _all(group, 1, what))


def hooks(samples: Samples, rounds: int) -> None:
    """A hook that writes a container's state, beside a Python that does nothing."""
    told = {"ociVersion": "1.0.2", "id": "hook", "status": "creating", "pid": os.getpid()}
    state = json.dumps({**told, "bundle": "/srv/bench"}).encode()
    memory = {"TORPOR_STATE_ROOT": "/run/bench-state"}
    hook = ["/usr/libexec/torpor/hooks/create-runtime"]
    kinds: list[tuple[str, list[str], dict[str, str]]] = [
        ("python3 -I -S -c pass", ["/usr/bin/python3", "-I", "-S", "-c", "pass"], {}),
        ("hook, on disk", hook, {}),
        ("hook, in memory", hook, memory),
    ]

    def measure(kind: tuple[str, list[str], dict[str, str]], counts: bool) -> None:
        whom, argv, environment = kind
        took_ms = milliseconds(
            lambda: subprocess.run(argv, input=state, env=environment, check=True)
        )
        if counts:
            samples.add("hook", whom, took_ms)

    in_turns(kinds, rounds, measure)


def images(samples: Samples, mib: int) -> None:
    """What a container takes on disk asleep, half of whose memory is zeroes that it wrote."""
    each = Torpor("zeroes", mib)
    each.command = [*each.command, str(mib)]
    each.make()
    each.started()
    each.sleep()
    size = sum(path.stat().st_blocks * 512 for path in each.images().rglob("*"))
    samples.add("image", "memory", 2 * mib * 1024)
    samples.add("image", "torpor", size / 1024)
    each.remove()


# A verb's points (see helpers/fault.py), each the end of what is named, in their order.
PHASES = {
    "sleep": (
        ("before state-DUMPING", "systemd, start of the helper, preflight"),
        ("dumping", "record"),
        ("after generation/netns", "config and network"),
        ("frozen", "freeze"),
        ("post-dump", "dump by CRIU"),
        ("sealed", "seal: hash and sync"),
        ("committed", "commit"),
        ("killed", "kill"),
        ("ready", "record"),
        ("", "clean up, systemd"),
    ),
    "wake": (
        ("before state-RESTORING", "systemd, start of the helper, verify"),
        ("restoring", "record"),
        ("setup-namespaces", "runc and CRIU begin"),
        ("post-restore", "restore by CRIU"),
        ("consumed", "verdict and record"),
        ("restored", "runc ends"),
        ("before state-RUNNING", "systemd is told, thaw"),
        ("", "until it runs and systemctl returns"),
    ),
}


def phases(samples: Samples, rounds: int, mib: int) -> None:
    """Where the time of ours goes."""
    each = Torpor(f"phases{mib}", mib)
    each.make()
    each.started()
    trace = Path("/run/bench-trace")
    drop_in = UNITS / f"{each.unit}.d/trace.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(f"[Service]\nEnvironment=TORPOR_FAULT_TRACE={trace}\n")
    run(["systemctl", "daemon-reload"])

    def measure(verb: str, counts: bool) -> None:
        settle(each)
        trace.write_text("")
        began_s = time.monotonic()
        each.sleep() if verb == "sleep" else each.woken()
        ended_s = time.monotonic()
        if counts:
            _phases(samples, f"{verb} {mib} MiB", verb, trace.read_text(), began_s, ended_s)

    for number in range(rounds + 1):
        for verb in PHASES:
            measure(verb, number > 0)
    each.remove()


def _phases(
    samples: Samples, what: str, verb: str, trace: str, began_s: float, ended_s: float
) -> None:
    passed: dict[str, float] = {}
    for line in trace.splitlines():
        when, _, name = line.partition(" ")
        passed.setdefault(name, float(when))
    for point, phase in PHASES[verb]:
        if point and point not in passed:
            continue
        at_s = passed[point] if point else ended_s
        samples.add(f"phases of {what}", phase, (at_s - began_s) * 1e3)
        began_s = at_s


def _remove(containers: Sequence[Contestant]) -> None:
    for each in containers:
        each.remove()
