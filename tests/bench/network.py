#!/usr/bin/python3
"""What a network adds to a start, a sleep and a wake: medians of one interleaved run.

make bench-network [ROUNDS=9]
"""

import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "machine"))

from containers import BUSYBOX, Container, make_busybox
from machine import Machine

COMMAND = ["/bin/sh", "-c", "while :; do sleep 0.1; done"]
BRIDGE = {"bridge": "bench0", "subnet": "10.85.0.0/24"}
CNI = {
    "cniVersion": "1.0.0",
    "name": "bench",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "bench1",
            "isGateway": True,
            "ipMasq": True,
            "ipam": {"type": "host-local", "subnet": "10.86.0.0/24"},
        }
    ],
}
BASE = "host"
KINDS: dict[str, dict[str, object]] = {
    BASE: {"network": "host"},
    "none": {},
    "bridge": {"network": BRIDGE},
    "bridge, port": {"network": {**BRIDGE, "publish": ["18080:80"]}},
    "bridge, keep": {"network": BRIDGE, "checkpoint": {"tcp": "keep"}},
    "bridge, ids mapped": {"network": BRIDGE, "idmap": "0:100000:65536"},
    "cni": {"network": {"cni": "bench"}},
}
STEPS = ("start", "sleep", "wake")


def timed(container: Container, verb: str) -> float:
    """Milliseconds that systemctl takes, measured in the machine."""
    script = 'a=$(date +%s%N); systemctl "$1" "$2"; b=$(date +%s%N); echo $((b - a))'
    done = container.machine.run("sh", "-ec", script, "sh", verb, container.unit)
    return int(done.stdout) / 1e6


def measure(machine: Machine, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of each step of each kind."""
    make_busybox(machine)
    machine.write("/etc/cni/net.d/bench.conflist", json.dumps(CNI))
    found: dict[str, dict[str, list[float]]] = {
        kind: {step: [] for step in STEPS} for kind in KINDS
    }
    containers = {}
    for number, (kind, keys) in enumerate(KINDS.items()):
        container = Container(machine, f"bench{number}")
        containers[kind] = container.define(rootfs=BUSYBOX, command=COMMAND, **keys)
        container.start()  # renders; what is measured does not
        machine.run("torpor", "stop", "--fresh", container.name)
    for _ in range(rounds):
        for kind, container in containers.items():
            for step, verb in zip(STEPS, ("start", "stop", "start"), strict=True):
                found[kind][step].append(timed(container, verb))
                time.sleep(0.2)
            machine.run("torpor", "stop", "--fresh", container.name)
    return found


def main() -> None:
    """Print a table in Markdown: milliseconds, and the ratio to the host's network."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    with Machine() as machine:
        found = measure(machine, rounds)
    print(f"Medians of {rounds} rounds in ms, and times the first line")
    print("| network |", " | ".join(STEPS), "|")
    print("|---|" + "---|" * len(STEPS))
    base = {step: statistics.median(found[BASE][step]) for step in STEPS}
    for kind, steps in found.items():
        medians = {step: statistics.median(values) for step, values in steps.items()}
        cells = (f"{ms:.0f} ({ms / base[step]:.2f})" for step, ms in medians.items())
        print(f"| {kind} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
