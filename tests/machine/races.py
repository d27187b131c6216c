"""Does to containers all that people and programs do, at once and in any order, and looks.

    python3 races.py SECONDS SEED NAME...

runs inside a machine, on containers that are defined there (see subject.py). Several do it to each
container; when they have ended it must start, sleep and wake, and nothing may be left.
"""

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from subject import Subject, systemctl

_AT_ONCE = 3  # of those who act on one container
_PAUSE_MAX_S = 0.3
_CALL_MAX_S = 180.0


def deeds(name: str) -> dict[str, list[str]]:
    """What is done, some of it more often."""
    unit = f"torpor@{name}.service"
    return {
        "start": ["systemctl", "start", unit],
        "start too": ["systemctl", "start", "--no-block", unit],
        "stop": ["systemctl", "stop", unit],
        "stop too": ["systemctl", "stop", "--no-block", unit],
        "restart": ["systemctl", "restart", unit],
        "stop fresh": ["torpor", "stop", "--fresh", name],
        "discard": ["torpor", "discard", name],
        "check": ["torpor", "check", "--checkpoint", name],
        "status": ["torpor", "status", "--json", name],
        "reload": ["systemctl", "daemon-reload"],
        "runc kill": ["runc", "kill", name, "KILL"],
        "runc delete": ["runc", "delete", "--force", name],
        "kill": ["systemctl", "kill", "--signal=KILL", unit],
        "clean": ["systemctl", "clean", "--what=runtime", unit],
    }


class Racer:
    """One of those who act on a container."""

    def __init__(self, subject: Subject, choice: random.Random, done: "Counter[str]") -> None:
        self.subject = subject
        self.choice = choice
        self.done = done
        self.hangs: list[str] = []

    def run(self, until_s: float) -> None:
        known = deeds(self.subject.name)
        while time.monotonic() < until_s and not self.hangs:
            what = self.choice.choice(["edit", *known])
            if what == "edit":
                self.edit()
            else:
                self.call(known[what])
            self.done[what] += 1
            time.sleep(self.choice.uniform(0, _PAUSE_MAX_S))

    def call(self, words: list[str]) -> None:
        quiet = subprocess.DEVNULL
        try:
            subprocess.run(words, stdout=quiet, stderr=quiet, timeout=_CALL_MAX_S, check=False)
        except subprocess.TimeoutExpired:
            self.hangs.append(f"{' '.join(words)}: does not end")

    def edit(self) -> None:
        """As an editor does: not all at once."""
        path = Path(self.subject.container.definition_path)
        text = path.read_text()
        try:
            definition = json.loads(text)
        except ValueError:
            return  # another is at it
        definition["hostname"] = f"h{self.choice.randrange(1000)}"
        with path.open("w") as file:
            whole = json.dumps(definition)
            file.write(whole[: len(whole) // 2])
            file.flush()
            time.sleep(0.01)
            file.write(whole[len(whole) // 2 :])


def faults(subject: Subject, definition: str) -> list[str]:
    """What is wrong with it when nobody acts on it any more."""
    try:
        subject.settled()
        Path(subject.container.definition_path).write_text(definition)
        systemctl("stop", subject.unit)
        subject.start(may_forget=True)
        for _ in range(2):
            subject.stop()
            subject.start()
    except Exception as error:
        return [f"{type(error).__name__}: {error}\n{subject.looks()}"]
    return []


def main() -> None:
    seconds, seed, *names = sys.argv[1:]
    subjects = [Subject(name) for name in names]
    definitions = [Path(one.container.definition_path).read_text() for one in subjects]
    done: Counter[str] = Counter()
    racers = [
        Racer(subject, random.Random(f"{seed}/{subject.name}/{number}"), done)
        for subject in subjects
        for number in range(_AT_ONCE)
    ]
    until_s = time.monotonic() + float(seconds)
    threads = [threading.Thread(target=racer.run, args=(until_s,)) for racer in racers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [hang for racer in racers for hang in racer.hangs]
    for subject, definition in zip(subjects, definitions, strict=True):
        found += faults(subject, definition)
    lives = [life for subject in subjects for life in subject.lives()] if not found else []
    print(json.dumps({"faults": found, "done": done, "lives": len(lives), "numbers": sum(lives)}))


main()
