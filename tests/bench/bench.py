#!/usr/bin/python3
"""torpor beside its peers, measured in one interleaved run in a booted machine.

make bench [BENCH=quick]
"""

import argparse
import json
import os
import platform
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "machine"))

import report
from machine import Machine

HERE = Path(__file__).resolve().parent
INSIDE = "/srv/bench-inside"
RESULT = "/srv/bench.json"
TIMEOUT_S = 3600


def measure(machine: Machine, options: list[str]) -> dict[str, dict[str, list[float]]]:
    """Samples, by what was measured and of whom."""
    for path in (HERE / "inside").iterdir():
        if path.is_file():
            machine.write(f"{INSIDE}/{path.name}", path.read_text())
    status = machine.shell("python3", f"{INSIDE}/measure.py", *options, RESULT)
    if status:
        raise SystemExit(status)
    found: dict[str, dict[str, list[float]]] = json.loads(machine.read(RESULT))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure torpor beside its peers.")
    parser.add_argument("--quick", action="store_true", help="two minutes instead of ten")
    parser.add_argument("--only", default="", help="sections, separated by commas")
    parser.add_argument("--output", type=Path, default=Path("build/bench"), help="a directory")
    args = parser.parse_args()
    options = ["--quick"] if args.quick else []
    options += ["--only", args.only] if args.only else []
    with Machine() as machine:
        found = measure(machine, options)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "bench.json").write_text(json.dumps(found, indent=1) + "\n")
    text = report.markdown(found, describe())
    (args.output / "bench.md").write_text(text)
    report.plot(found, args.output / "bench.svg")
    print(text)


def describe() -> str:
    """The machine, for who compares figures."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    name = cpu[1] if cpu else platform.machine()
    return f"{os.cpu_count()} processors ({name}), Linux {platform.release()}"


if __name__ == "__main__":
    main()
