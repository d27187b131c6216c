"""torpor, the command: looks at and decides about containers that torpor@.service runs."""

import argparse
import importlib
import os
import sys

import torpor
from torpor.errors import TorporError
from torpor.talk import report

# Each verb is a module: HELP is its first words, add_arguments and run do the rest.
_VERBS = {
    "status": "show containers: state, generation, size, why",
    "new": "write the definition of a new container",
    "logs": "show what a container has said",
    "exec": "run a program in a running container",
    "top": "show what containers take of the host",
    "inspect": "show what the images of a sleeping container hold",
    "diff": "show what became of a container between two of its generations",
    "history": "show what became of a container: each state, when and why",
    "check": "check a definition, or whether its running container would sleep",
    "render": "print the OCI configuration that a definition asks for",
    "apply": "apply a definition's resources to its running container",
    "stop": "stop a container for real, once, without sleeping",
    "snapshot": "keep a moment of a running container, memory and files",
    "rollback": "put a stopped container back to a snapshot",
    "discard": "forget the memory of a sleeping container",
    "export": "write a sleeping container to one file, for another host",
    "import": "make a container of such a file",
    "migrate": "move a container to another host, where it goes on",
    "receive": "what migrate calls on the other host",
    "metrics": "print what is known of containers for Prometheus",
    "doctor": "check whether this host can put containers to sleep",
    "hooks": "add torpor's OCI hooks to a bundle, remove or list them",
}
_BY_ITSELF = "status"
_WITH_COMMAND, _BEFORE_COMMAND = "new", "--"  # what follows is a program's
_FOR_ALL = ("render",)
_NO_PERMISSION = 77  # EX_NOPERM of sysexits.h


def main() -> int:
    try:
        options = _parse(sys.argv[1:] or [_BY_ITSELF])
        if os.geteuid() != 0 and options.verb not in _FOR_ALL:
            raise TorporError(
                f"{options.verb} needs root: it reads and changes root's containers",
                f"run: sudo torpor {' '.join(sys.argv[1:])}",
                exit_code=_NO_PERMISSION,
            )
        return int(options.run(options))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing is left to flush at exit
        return 141
    except Exception as error:
        return report("torpor", error)
    except KeyboardInterrupt:
        return 130


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="torpor",
        description="Containers that sleep on 'systemctl stop' and wake on 'systemctl start'.",
        epilog="Containers are started and stopped as units: systemctl start torpor@NAME. "
        "See torpor(1), torpor.yaml(5), torpor@.service(8).",
    )
    parser.add_argument("--version", action="version", version=f"torpor {torpor.__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    wanted = next((word for word in words if not word.startswith("-")), "")
    for verb, words_of_help in _VERBS.items():
        sub = verbs.add_parser(verb, help=words_of_help, description=words_of_help.capitalize())
        if verb == wanted:
            module = importlib.import_module(f"torpor.commands.{_MODULES.get(verb, verb)}")
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    if wanted != _WITH_COMMAND or _BEFORE_COMMAND not in words:
        return parser.parse_args(words)
    at = words.index(_BEFORE_COMMAND)
    options = parser.parse_args(words[:at])
    options.command = words[at + 1 :]
    return options


# torpor.commands.stop is what the unit calls; import is a word of Python's, and exec was.
_MODULES = {"stop": "stop_fresh", "import": "import_", "exec": "exec_"}
