"""Measure in a booted machine, as a unit of its own; the samples go to a file.

measure.py [--quick] FILE
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import sections
from contestants import IMAGE, PLACE, ROOTFS
from samples import Samples, say

_PREPARE = f"""
mkdir -p {ROOTFS}/bin {ROOTFS}/proc {ROOTFS}/dev {ROOTFS}/sys {ROOTFS}/tmp {ROOTFS}/etc /etc/torpor
gcc -O2 -static -o {ROOTFS}/bin/resident {Path(__file__).parent}/resident.c
mkdir -p /etc/containers
# Without controllers nothing can limit the number of processes.
printf '[containers]\\npids_limit = 0\\n' >/etc/containers/containers.conf
mkdir -p /etc/systemd/system.conf.d
printf '[Manager]\\nDefaultStartLimitIntervalSec=0\\n' >/etc/systemd/system.conf.d/bench.conf
systemctl daemon-reload
tar -C {ROOTFS} -c . | podman import - {IMAGE}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--quick", action="store_true", help="two minutes instead of ten")
    parser.add_argument("--only", default="", help="one section")
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    PLACE.mkdir(parents=True, exist_ok=True)
    subprocess.run(["sh", "-ec", _PREPARE], check=True, stdout=subprocess.DEVNULL)
    samples = Samples(args.file)
    rounds = 5 if args.quick else 9
    large = 128 if args.quick else 1024
    plan: dict[str, Callable[[], None]] = {
        "hooks": lambda: sections.hooks(samples, 10 * rounds),
        "starts": lambda: sections.starts(samples, rounds),
        "small": lambda: sections.rounds_of(samples, rounds, 8, cold=False),
        "phases": lambda: sections.phases(samples, rounds, 8),
        "large": lambda: sections.rounds_of(samples, rounds, large, cold=True),
        "large phases": lambda: sections.phases(samples, rounds, large),
        "images": lambda: sections.images(samples, 64),
        "many": lambda: sections.many(samples, 3, 8 if args.quick else 20),
        "growth": lambda: sections.growth(samples, (8, 16) if args.quick else (25, 50, 100)),
    }
    for name, section in plan.items():
        if args.only and name not in args.only.split(","):
            continue
        began_s = time.monotonic()
        section()
        samples.save()
        say(f"{name}: {time.monotonic() - began_s:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
