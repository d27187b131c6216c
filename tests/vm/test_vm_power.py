"""Power cuts: what the disk has is whole, no older than what ran on, and has one answer."""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import image
from containers import Container as Unit
from subjects import PROGRAM, define, install
from torpor import images, last_rendering, preparation, record, state
from torpor.container import Container
from torpor.errors import TorporError

from . import write_log
from .vm import Vm

CUTS = int(os.environ.get("CUTS") or 1)
STATES = int(os.environ.get("STATES") or 120)
SEED = os.environ.get("SEED") or str(time.time_ns())
NAMES = ("cut0", "cut1")
DATA = "/srv/data"
ROUNDS = 6
# Replaced by what does nothing, for helpers and all that they start.
WITHOUT_SYNCS = "/usr/lib/x86_64-linux-gnu/libeatmydata.so"
LOAD = "while :; do dd if=/dev/zero of=/srv/load bs=64k count=200 2>/dev/null; sleep 0.2; done"
MOUNT = """
mkdir -p "$1" && mount /dev/vdb "$1" && mkdir -p "$1/torpor" /var/lib/torpor
mount --bind "$1/torpor" /var/lib/torpor
shift; for name in "$@"; do mkdir -p "/srv/data/$name"; ln -sfn "/srv/data/$name" "/srv/$name"; done
"""
UNMOUNT = 'shift; for name in "$@"; do rm -f "/srv/$name"; done; umount /var/lib/torpor /srv/data'

Asleep = dict[tuple[str, int], int]  # name and generation → the last number written before


@pytest.fixture
def on_data_disk(vm: Vm) -> Iterator[list[Unit]]:
    install(vm)
    vm.run("sh", "-ec", MOUNT, "sh", DATA, *NAMES)
    made = [define(vm, name) for name in NAMES]
    for container in made:
        container.start()
    yield made
    for container in made:
        container.remove()
    vm.run("sh", "-c", UNMOUNT, "sh", DATA, *NAMES)


def cycles(vm: Vm) -> Asleep:
    said = vm.run("python3", f"{PROGRAM}/cycles.py", str(ROUNDS), *NAMES, timeout=300).stdout
    vm.run("sync")
    return {(name, generation): number for name, generation, number in json.loads(said)}


def broken(top: Path, name: str, asleep: Asleep) -> tuple[str, str]:
    """The state that a start finds on a disk at top, and what is wrong with it, or ""."""
    container = Container(name)
    container.state_dir = f"{top}/torpor/{name}"
    try:
        found = state.read(container)
        if text := record.read_bytes(container.inputs_path):
            record.parse(text, "inputs", container.inputs_path)
        if state.plan(found) != state.WAKE:
            return found.name, ""
        generation = images.Generation(container, found.generation)
        images.Verification(generation, images.read_manifest(container, generation)).verdict(
            lambda: None
        )
        preparation.read(generation.plan)
        assert last_rendering.load(container) is not None
    except TorporError as error:
        return "", error.message
    last = (top / name / "own/journal").read_text().split()[-1]
    expected = str(asleep[name, found.generation])
    return found.name, "" if last == expected else f"{last[:9]!r} is not {expected}"


def crash_states(vm: Vm, first: int, last: int, asleep: Asleep, place: Path) -> Counter[str]:
    """How often each state was found after a cut between two entries of the log, or a fault."""
    choice = random.Random(SEED)
    content, copy, top = place / "content", place / "copy", place / "top"
    top.mkdir(exist_ok=True)
    log = place / "log"
    image.logged(log, "cp", "--sparse=always", vm.data_before, content)
    disk = write_log.Disk(content, vm.data_log)
    found: Counter[str] = Counter()
    for end in sorted(choice.randrange(first, last) for _ in range(STATES)):
        disk.cut(disk.advance(end), copy, choice)
        image.logged(log, "mount", "-o", "loop", copy, top)
        try:
            for name in NAMES:
                name_of_state, fault = broken(top, name, asleep)
                found[f"FAULT after write {end}: {fault}" if fault else name_of_state] += 1
        finally:
            image.logged(log, "umount", top)
    disk.close()
    return found


def entries(vm: Vm) -> int:
    vm.run("sync")
    return len(write_log.read(vm.data_log))


def test_no_power_cut_leaves_a_torn_or_a_stale_memory(
    vm: Vm, on_data_disk: list[Unit], tmp_path: Path
) -> None:
    first = entries(vm)
    asleep = cycles(vm)
    found = crash_states(vm, first, entries(vm), asleep, tmp_path)
    print(f"seed {SEED}: {found}")
    assert [text for text in found if text.startswith("FAULT")] == [], f"seed {SEED}"
    assert found[state.READY] > 0
    assert found[state.RUNNING] > 0
    # Not a proof of anything if it could not fail.
    for container in on_data_disk:
        container.drop_in("syncs", f"Environment=LD_PRELOAD={WITHOUT_SYNCS}")
    first = entries(vm)
    asleep |= cycles(vm)
    without = crash_states(vm, first, entries(vm), asleep, tmp_path)
    print(f"without syncs: {without}")
    assert [text for text in without if text.startswith("FAULT")]


def test_after_each_power_cut_the_next_start_has_one_answer(vm: Vm) -> None:
    install(vm)
    choice = random.Random(SEED)
    made = [define(vm, name) for name in NAMES]
    for container in made:
        container.start()
    vm.run("sync")
    for number in range(CUTS):
        for unit, words in (
            ("cycles", ["python3", f"{PROGRAM}/cycles.py", "0", *NAMES]),
            ("load", ["sh", "-c", LOAD]),
        ):
            vm.run("systemd-run", "--quiet", "--collect", f"--unit={unit}", *words)
        time.sleep(choice.uniform(2, 15))
        vm.crash_and_boot()
        said = vm.run("python3", f"{PROGRAM}/after_cut.py", *NAMES, timeout=300).stdout
        print(f"cut {number}: {json.loads(said)}")
    for container in made:
        container.remove()
        vm.run("rm", "-rf", f"/srv/{container.name}")
