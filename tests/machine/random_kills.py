"""Kills helpers, runc and CRIU at random moments of stops and starts, and looks for what is lost.

    python3 random_kills.py KILLS SEED NAME...

runs inside a machine, on containers that are defined there (see subject.py), and prints what it
found as JSON. The seed makes the choices the same, not their timing.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

from subject import HELPERS, Subject, systemctl

_APPEARS_S = 2.0
_DELAY_MAX_S = 0.12
_CALL_MAX_S = 120.0
_START_ATTEMPTS = 4  # what is tried again after a cut-off restore
_VICTIMS = (HELPERS, ("runc",), ("criu",))


class Victim:
    """A container whose stops and starts are disturbed."""

    def __init__(self, name: str, choice: random.Random) -> None:
        self.subject = Subject(name)
        self.choice = choice
        self.kills: list[str] = []

    def disturb(self, verb: str) -> None:
        """Run a verb of systemctl and kill one of those that do it."""
        unit = self.subject.unit
        caller = subprocess.Popen(
            ["systemctl", verb, unit], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wanted = self.choice.choice(_VICTIMS)
        delay_s = self.choice.uniform(0, _DELAY_MAX_S)
        deadline_s = time.monotonic() + _APPEARS_S
        while not self.subject.helpers(wanted) and caller.poll() is None:
            if time.monotonic() > deadline_s:
                break
            time.sleep(0.01)
        time.sleep(delay_s)
        if found := self.subject.helpers(wanted):
            name, pid = self.choice.choice(found)
            try:
                os.kill(pid, signal.SIGKILL)
                self.kills.append(f"{verb} {name}")
            except ProcessLookupError:
                pass
        caller.wait(_CALL_MAX_S)

    def round(self) -> None:
        """A stop and a start, one of them disturbed."""
        subject = self.subject
        if self.choice.random() < 0.5:
            self.disturb("stop")
        else:
            systemctl("stop", subject.unit)
            self.disturb("start")
        if subject.settled() != "active":
            subject.start(_START_ATTEMPTS)
        subject.goes_on()


def main() -> None:
    kills, seed, *names = sys.argv[1:]
    victims = [Victim(name, random.Random(f"{seed}/{name}")) for name in names]
    faults: list[str] = []

    def run(victim: Victim) -> None:
        try:
            while not faults and sum(len(one.kills) for one in victims) < int(kills):
                victim.round()
        except Exception as error:
            said = f"{type(error).__name__}: {error}; its kills: {victim.kills[-3:]}"
            faults.append(f"{said}\n{victim.subject.looks()}")

    threads = [threading.Thread(target=run, args=(victim,)) for victim in victims]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lives = [life for one in victims for life in one.subject.lives()] if not faults else []
    found = {
        "faults": faults,
        "kills": Counter(kill for one in victims for kill in one.kills),
        "fresh": len(lives) - len(victims),
        "numbers": sum(lives),
    }
    print(json.dumps(found))


main()
