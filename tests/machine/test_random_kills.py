"""Whatever is killed, and whenever: nothing durable is lost, and nothing runs twice."""

import json
import os
import time

from test_kill import LEFT

from machine import Machine
from subjects import PROGRAM, running

KILLS = int(os.environ.get("KILLS") or 300)
SEED = os.environ.get("SEED") or str(time.time_ns())
AT_ONCE = 6


def test_random_kills_lose_nothing_that_is_durable(machine: Machine) -> None:
    with running(machine, "random", AT_ONCE) as subjects:
        names = [container.name for container in subjects]
        words = ("python3", f"{PROGRAM}/random_kills.py", str(KILLS), SEED, *names)
        found = json.loads(machine.run(*words, timeout=120 + KILLS * 5).stdout)
        assert found["faults"] == [], "\n".join([f"seed {SEED}", *found["faults"]])
        print(f"seed {SEED}: {found}")
        assert sum(found["kills"].values()) >= KILLS
        # Kills hit stops and starts, of whoever takes part.
        assert {"stop stop", "stop criu", "start start", "start criu"} <= found["kills"].keys()
        machine.run("systemctl", "stop", *(one.unit for one in subjects), timeout=120)
        assert machine.run("sh", "-c", LEFT).stdout == ""
