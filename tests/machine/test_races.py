"""Whatever is done to containers at once, in the end each starts, sleeps and wakes."""

import json
import os
import time

from machine import Machine
from subjects import PROGRAM, running

SECONDS = int(os.environ.get("SECONDS_OF_RACES") or 60)
SEED = os.environ.get("SEED") or str(time.time_ns())
AT_ONCE = 5


def test_nothing_that_is_done_at_once_leaves_a_container_without_an_answer(
    machine: Machine,
) -> None:
    with running(machine, "raced", AT_ONCE) as raced:
        names = [container.name for container in raced]
        words = ("python3", f"{PROGRAM}/races.py", str(SECONDS), SEED, *names)
        found = json.loads(machine.run(*words, timeout=SECONDS + 600).stdout)
    print(f"seed {SEED}: {found}")
    assert found["faults"] == [], "\n".join([f"seed {SEED}", *found["faults"]])
    assert len(found["done"]) == 15  # all of it was done
