"""Whatever is done to containers at once, in the end each starts, sleeps and wakes."""

import json
import os
import time
from collections.abc import Iterator

import pytest

from containers import Container
from machine import Machine
from subjects import PROGRAM, define, install

SECONDS = int(os.environ.get("SECONDS_OF_RACES") or 60)
SEED = os.environ.get("SEED") or str(time.time_ns())
AT_ONCE = 5


@pytest.fixture
def raced(machine: Machine) -> Iterator[list[Container]]:
    install(machine)
    made = [define(machine, f"raced{number}") for number in range(AT_ONCE)]
    for container in made:
        container.drop_in("timeout", "TimeoutStartSec=8s\nTimeoutStopSec=4s\nStartLimitBurst=0")
        container.start()
    yield made
    for container in made:
        container.remove()
        machine.run("rm", "-rf", f"/srv/{container.name}")


def test_nothing_that_is_done_at_once_leaves_a_container_without_an_answer(
    raced: list[Container],
) -> None:
    machine = raced[0].machine
    names = [container.name for container in raced]
    words = ("python3", f"{PROGRAM}/races.py", str(SECONDS), SEED, *names)
    found = json.loads(machine.run(*words, timeout=SECONDS + 600).stdout)
    print(f"seed {SEED}: {found}")
    assert found["faults"] == [], "\n".join([f"seed {SEED}", *found["faults"]])
    assert len(found["done"]) == 15  # all of it was done
