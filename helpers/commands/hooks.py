"""Add torpor's OCI hooks to a bundle that is run with runc by hand, remove or list them."""

import argparse
import json
import os
import sys

from torpor import annotations, hooks_file
from torpor.hooks_file import Hook
from torpor.talk import WARNING, plain, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, words in (
        ("add", "add torpor's hooks to BUNDLE/config.json"),
        ("remove", "take torpor's hooks out of BUNDLE/config.json"),
        ("list", "show the stage and path of every hook"),
    ):
        sub = actions.add_parser(action, help=words, description=words.capitalize())
        sub.add_argument("bundle", metavar="BUNDLE", help="a directory with a config.json")
        if action == "add":
            words = "have each run refused that is not in it: torpor-web.slice, for example"
            sub.add_argument("--slice", metavar="SLICE", default="", help=words)
            words = "give systemd, as its first process, what it must find mounted"
            sub.add_argument("--systemd", action="store_true", help=words)
            words = "connect each run to it, as network: of a definition says: '{bridge: lan0}'"
            sub.add_argument("--network", metavar="NETWORK", default="", help=words)
        if action == "list":
            sub.add_argument("--json", action="store_true", help="for programs: a JSON document")


def run(options: argparse.Namespace) -> int:
    if options.action == "list":
        return _list(options.bundle, as_json=options.json)
    if options.action == "add":
        _add(options.bundle, options.slice, options.network, systemd=options.systemd)
    else:
        _print(hooks_file.remove(options.bundle), "removed", "not there")
    return 0


def _add(bundle: str, slice: str, network: str, *, systemd: bool) -> None:
    if slice:
        annotations.require_good_slice(slice)
    if network:
        annotations.network({annotations.NETWORK: network})
    outcomes = hooks_file.add(bundle, slice, systemd=systemd, network=network)
    _print(outcomes, "added", "already there")
    for one in outcomes:
        if isinstance(one.entry, Hook) and not os.access(one.entry.path, os.X_OK):
            say(
                f"torpor: {one.entry.path} is not on this host: "
                "runc will not run the bundle before torpor is installed",
                WARNING,
            )


def _list(bundle: str, *, as_json: bool) -> int:
    hooks = hooks_file.find(bundle)
    if as_json:
        rows = [{"stage": one.stage, "path": one.path, "torpor": one.is_ours} for one in hooks]
        json.dump(rows, sys.stdout, indent=2)
        print()
    else:
        width = max((len(hook.stage) for hook in hooks), default=0)
        for hook in hooks:
            print(plain(f"{hook.stage:<{width}}  {hook.path}"))
    return 0


def _print(outcomes: list[hooks_file.Outcome], changed: str, unchanged: str) -> None:
    for outcome in outcomes:
        word = changed if outcome.changed else unchanged
        print(plain(f"{outcome.entry}: {word}"))
