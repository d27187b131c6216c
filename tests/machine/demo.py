#!/usr/bin/python3
"""make demo: two containers keep their memory through stop, start and reboot, in a real machine.

Ends with a non-zero status if a number is lost or repeated, a key is missing or changed,
or a unit is not what it should be.
"""

import sys
import time
from dataclasses import dataclass

from containers import (
    BUSYBOX,
    COUNTER,
    REDIS,
    REDIS_CHECK,
    REDIS_COMMAND,
    REDIS_FILL,
    Container,
    make_busybox,
    make_redis,
    without_gap,
)
from machine import Machine

KEYS = 100_000
# Timed inside the machine: the way in takes longer than some of what is measured.
TIMED = 'a=$(date +%s%N); "$@" || exit; b=$(date +%s%N); echo $((b - a)) >&2'


@dataclass
class Step:
    """One line of the table at the end."""

    container: str
    what: str
    took_s: float
    image_bytes: int = 0
    frozen_s: float = 0.0


class Demo:
    """The story, and what was measured on the way."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.counter = Container(machine, "counter")
        self.redis = Container(machine, "redis")
        self.steps: list[Step] = []
        self.faults: list[str] = []

    def run(self) -> int:
        self.prepare()
        for round_number in (1, 2):
            say(f"round {round_number}: systemctl stop, then start")
            for container in (self.counter, self.redis):
                self.sleep(container)
            self.expect(not self.alive(), "runc has no container, and Redis no process")
            for container in (self.counter, self.redis):
                self.wake(container)
            self.verify()
        self.reboot()
        self.verify()
        self.report()
        return 1 if self.faults else 0

    def prepare(self) -> None:
        say("two containers: a counter, and Redis with persistence off")
        make_busybox(self.machine)
        make_redis(self.machine)
        self.counter.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", COUNTER])
        self.redis.define(
            rootfs=REDIS,
            command=REDIS_COMMAND,
        )
        for container in (self.counter, self.redis):
            took_s = self.timed("systemctl", "start", container.unit)
            self.machine.run("systemctl", "enable", "--quiet", container.unit)
            self.steps.append(Step(container.name, "first start", took_s))
        for _ in range(100):
            if self.ask_redis("PING", check=False) == "PONG":
                break
            time.sleep(0.05)
        filled = self.ask_redis("EVAL", REDIS_FILL, "0", str(KEYS))
        say(f"Redis holds {filled} keys")

    def timed(self, *argv: str) -> float:
        done = self.machine.run("sh", "-c", TIMED, "sh", *argv, timeout=180)
        return int(done.stderr.split()[-1]) / 1e9

    def ask_redis(self, *words: str, check: bool = True) -> str:
        argv = ("runc", "exec", "redis", "/bin/redis-cli", *words)
        return self.machine.run(*argv, check=check).stdout.strip()

    def alive(self) -> str:
        words = "runc list --quiet; pgrep -x redis-server || true"
        return self.machine.run("sh", "-c", words).stdout

    def sleep(self, container: Container) -> None:
        took_s = self.timed("systemctl", "stop", container.unit)
        asleep = container.status()
        self.expect(asleep["state"] == "READY", f"{container.name} is asleep")
        self.expect(container.property("Result") == "success", f"{container.name} stopped cleanly")
        self.steps.append(
            Step(
                container.name,
                "stop (sleep)",
                took_s,
                int(str(asleep["size_bytes"])),
                float(str(asleep["frozen_s"])),
            )
        )

    def wake(self, container: Container) -> None:
        took_s = self.timed("systemctl", "start", container.unit)
        self.expect_restored(container)
        self.steps.append(Step(container.name, "start (wake)", took_s))

    def reboot(self) -> None:
        say("rebooting the machine: both are running, and enabled")
        before = self.counter.numbers()[-1]
        took_s = self.machine.reboot()
        say(f"it is back after {took_s:.1f} s; the counter stood at {before}")
        for container in (self.counter, self.redis):
            self.machine.run("systemctl", "start", container.unit)  # waits for the job of the boot
            self.expect_restored(container)
        self.steps.append(Step("both", "reboot of the machine", took_s))

    def expect_restored(self, container: Container) -> None:
        text = container.property("StatusText")
        self.expect(text.startswith("restored generation"), f"{container.name}: {text}")

    def verify(self) -> None:
        time.sleep(0.5)
        numbers = self.counter.numbers()
        self.expect(
            without_gap(numbers), f"the counter printed 1 to {len(numbers)}, each exactly once"
        )
        good = self.ask_redis("EVAL", REDIS_CHECK, "0", str(KEYS))
        self.expect(good == str(KEYS), f"Redis has {good} of {KEYS} keys with their values")

    def expect(self, holds: bool, claim: str) -> None:
        print(f"  {'ok    ' if holds else 'FAILED'}  {claim}", flush=True)
        if not holds:
            self.faults.append(claim)

    def report(self) -> None:
        print(f"\n{'container':<11}{'what':<23}{'took':>9}{'image':>12}{'frozen':>10}")
        for step in self.steps:
            image = f"{step.image_bytes / (1 << 20):.1f} MiB" if step.image_bytes else ""
            frozen = f"{step.frozen_s:.2f} s" if step.frozen_s else ""
            print(
                f"{step.container:<11}{step.what:<23}{step.took_s:>7.2f} s{image:>12}{frozen:>10}"
            )
        if self.faults:
            print("\nThis did not hold:\n" + "\n".join(f"  {fault}" for fault in self.faults))
        else:
            print("\nNothing was lost.")


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


def main() -> int:
    with Machine(with_guest=False) as machine:
        versions = machine.run(
            "sh", "-c", "systemctl --version | head -1; runc --version | head -1; criu --version"
        )
        say(", ".join(versions.stdout.split("\n")[:3]))
        return Demo(machine).run()


if __name__ == "__main__":
    sys.exit(main())
