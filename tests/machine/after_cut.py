"""Looks for what a power cut has cost: prints it as JSON.

    python3 after_cut.py NAME...

runs inside a machine, on containers that were being put to sleep and woken (see subject.py).
"""

import json
import sys
from pathlib import Path

from subject import BrokenPromise, Subject
from torpor import state


def cut_tail(journal: Path) -> None:
    """What a program wrote and did not sync is its own loss: the file system leaves zeroes."""
    whole, newline, _ = journal.read_bytes().partition(b"\0")[0].rpartition(b"\n")
    journal.write_bytes(whole + newline)


def main() -> None:
    found = {}
    for name in sys.argv[1:]:
        subject = Subject(name)
        then = subject.state()
        if then == state.DAMAGED:
            raise BrokenPromise(f"{name} is damaged")
        if not subject.is_asleep():  # what it sleeps with was synced
            cut_tail(subject.journal)
        lives = len(subject.lives())
        subject.start()
        subject.stop()
        subject.start()
        found[name] = [then, "kept" if len(subject.lives()) == lives else "fresh"]
    print(json.dumps(found))


main()
