"""Whatever is killed, and whenever: nothing durable is lost, and nothing runs twice."""

import json
import os
import time
from collections.abc import Iterator

import pytest
from test_kill import LEFT

from containers import Container
from machine import Machine
from subjects import PROGRAM, define, install

KILLS = int(os.environ.get("KILLS") or 300)
SEED = os.environ.get("SEED") or str(time.time_ns())
AT_ONCE = 6


@pytest.fixture
def subjects(machine: Machine) -> Iterator[list[Container]]:
    install(machine)
    made = [define(machine, f"random{number}") for number in range(AT_ONCE)]
    for container in made:
        # When its helper is dead, systemd gives the start, and the container, this long.
        container.drop_in("timeout", "TimeoutStartSec=6s\nTimeoutStopSec=3s")
        container.start()
    yield made
    for container in made:
        container.remove()
        machine.run("rm", "-rf", f"/srv/{container.name}")


def test_random_kills_lose_nothing_that_is_durable(subjects: list[Container]) -> None:
    machine = subjects[0].machine
    names = [container.name for container in subjects]
    words = ("python3", f"{PROGRAM}/random_kills.py", str(KILLS), SEED, *names)
    found = json.loads(machine.run(*words, timeout=120 + KILLS * 5).stdout)
    assert found["faults"] == [], "\n".join([f"seed {SEED}", *found["faults"]])
    print(f"seed {SEED}: {found}")
    assert sum(found["kills"].values()) >= KILLS
    # Kills hit stops and starts, of whoever takes part.
    assert {"stop stop", "stop criu", "start start", "start criu"} <= found["kills"].keys()
    units = [container.unit for container in subjects]
    machine.run("systemctl", "stop", *units, timeout=120)
    assert machine.run("sh", "-c", LEFT).stdout == ""
