"""Keep a moment of a container that goes on: its memory, and the files that belong to it."""

import argparse
import sys

from torpor import taking
from torpor.container import Container


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the container, which is running")


def run(options: argparse.Namespace) -> int:
    status, _ = taking.take(Container(options.name), sys.stdout)
    return status
