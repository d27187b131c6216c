"""Add torpor's OCI hooks to a bundle that is run with runc by hand, remove or list them."""

import argparse
import json
import os
import sys

from torpor import hooks_file
from torpor.talk import WARNING, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, words in (
        ("add", "add torpor's hooks to BUNDLE/config.json"),
        ("remove", "take torpor's hooks out of BUNDLE/config.json"),
        ("list", "show the stage and path of every hook"),
    ):
        sub = actions.add_parser(action, help=words, description=words.capitalize())
        sub.add_argument("bundle", metavar="BUNDLE", help="a directory with a config.json")
        if action == "list":
            sub.add_argument("--json", action="store_true", help="for programs: a JSON document")


def run(options: argparse.Namespace) -> int:
    if options.action == "list":
        return _list(options.bundle, as_json=options.json)
    if options.action == "add":
        _print(hooks_file.add(options.bundle), "added", "already there")
        _warn_of_missing_programs()
    else:
        _print(hooks_file.remove(options.bundle), "removed", "not there")
    return 0


def _list(bundle: str, *, as_json: bool) -> int:
    hooks = hooks_file.find(bundle)
    if as_json:
        rows = [{"stage": one.stage, "path": one.path, "torpor": one.is_ours} for one in hooks]
        json.dump(rows, sys.stdout, indent=2)
        print()
    else:
        width = max((len(hook.stage) for hook in hooks), default=0)
        for hook in hooks:
            print(f"{hook.stage:<{width}}  {hook.path}")
    return 0


def _print(outcomes: list[hooks_file.Outcome], changed: str, unchanged: str) -> None:
    for outcome in outcomes:
        word = changed if outcome.changed else unchanged
        print(f"{outcome.hook.stage} {outcome.hook.path}: {word}")


def _warn_of_missing_programs() -> None:
    for hook in hooks_file.OURS:
        if not os.access(hook.path, os.X_OK):
            say(
                f"torpor: {hook.path} is not on this host: "
                "runc will not run the bundle before torpor is installed",
                WARNING,
            )
