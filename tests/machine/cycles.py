"""Puts containers to sleep and wakes them, again and again, all at once.

    python3 cycles.py ROUNDS NAME...

runs inside a machine, on containers that are awake there (see subject.py); ROUNDS is 0 for no end.
Prints for each sleep the container, its generation, and the last number that it had written.
"""

import itertools
import json
import random
import sys
import threading
import time

from subject import Subject, systemctl
from torpor import state

_AWAKE_MAX_S = 1.0


def cycle(subject: Subject, rounds: int, asleep: list[tuple[str, int, int]]) -> None:
    for _ in itertools.repeat(None, rounds) if rounds else itertools.repeat(None):
        systemctl("stop", subject.unit)
        found = state.read(subject.container)
        asleep.append((subject.name, found.generation, subject.lives()[-1]))
        systemctl("start", subject.unit)
        time.sleep(random.uniform(0, _AWAKE_MAX_S))


def main() -> None:
    rounds, *names = sys.argv[1:]
    asleep: list[tuple[str, int, int]] = []
    threads = [
        threading.Thread(target=cycle, args=(Subject(name), int(rounds), asleep)) for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(asleep))


main()
