"""Check whether this host can put containers to sleep and wake them."""

import argparse
import dataclasses
import json
import sys

from torpor import host


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs: one JSON document")


def run(options: argparse.Namespace) -> int:
    findings = host.findings()
    if options.json:
        json.dump([dataclasses.asdict(finding) for finding in findings], sys.stdout, indent=2)
        print()
    else:
        _print(findings)
    return 1 if any(finding.level == host.PROBLEM for finding in findings) else 0


def _print(findings: list[host.Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.level:<{len(host.PROBLEM)}}  {finding.name:<{width}}  {finding.found}")
        if finding.remedy:
            print(f"{'':<{len(host.PROBLEM)}}    {finding.remedy}")
