"""Show the states that a container went through."""

import argparse
import dataclasses
import json
import sys
import textwrap
import time

from torpor import table, transitions
from torpor.commands.status import require_known
from torpor.container import Container
from torpor.talk import mebibytes, plain, warn
from torpor.transitions import Transition

_INDENT = " " * 39  # below WHY


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the container")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON document")


def run(options: argparse.Namespace) -> int:
    container = Container(options.name)
    require_known(container)
    found, faults = transitions.read(container)
    warn(container.name, faults)
    if options.json:
        json.dump([_document(one) for one in found], sys.stdout, indent=2)
        print()
    elif found:
        print("\n".join(_text(found, table.width())))
    else:
        print(f"{container.name}: nothing is recorded yet")
    return 0


def _document(one: Transition) -> dict[str, object]:
    values = dataclasses.asdict(one)
    since = {"since": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(one.since_s))}
    return {**since, **values}


def _text(found: list[Transition], width: int) -> list[str]:
    lines = [f"{'TIME':<19}  {'STATE':<9}  {'GEN':>5}  WHY"]
    boot = found[0].boot
    for one in found:
        if one.boot != boot:
            boot = one.boot
            lines.append(f"-- Boot {plain(boot)} --")
        lines += _lines(one, width)
    return lines


def _lines(one: Transition, width: int) -> list[str]:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.since_s))
    first = f"{at}  {one.state:<9}  {one.generation or '-':>5}  "
    words = first + plain("; ".join((one.reason or "-", *_figures(one))))
    if not width:
        return [words]
    return textwrap.wrap(words, width, subsequent_indent=_INDENT)


def _figures(one: Transition) -> list[str]:
    return [
        *([mebibytes(one.size_bytes)] if one.size_bytes else []),
        *([] if one.frozen_s is None else [f"frozen {one.frozen_s:.2f} s"]),
        *([] if one.took_s is None else [f"took {one.took_s:.2f} s"]),
    ]
