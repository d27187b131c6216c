"""Print the OCI configuration that a definition asks for, without starting anything."""

import argparse
import json

from torpor import rendering
from torpor.container import Container
from torpor.talk import warn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the container")


def run(options: argparse.Namespace) -> int:
    container = Container(options.name)
    rendered, warnings = rendering.check(container)
    warn(container.name, warnings)
    print(json.dumps(rendered.config, indent=2, sort_keys=True))
    return 0
