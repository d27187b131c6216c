"""Looks for what a power cut has cost: prints it as JSON.

    python3 after_cut.py NAME...

runs inside a machine, on containers that were being put to sleep and woken (see subject.py).
"""

import json
import sys

from subject import Subject


def main() -> None:
    found = {}
    for name in sys.argv[1:]:
        subject = Subject(name)
        state, lives = subject.state(), len(subject.lives())
        subject.start()
        subject.stop()
        subject.start()
        found[name] = [state, "kept" if len(subject.lives()) == lives else "fresh"]
    print(json.dumps(found))


main()
