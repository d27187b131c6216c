"""Shell completion knows what the command takes."""

import argparse
import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from torpor.commands import torpor as command

PLACE = Path(__file__).parents[2] / "packaging/completions"
HIDDEN = {"receive"}  # other hosts call it
NAMELESS = {"import", "doctor", "hooks", "metrics", "new"}
VERBS = sorted(set(command._VERBS) - HIDDEN)


def options(verb: str) -> set[str]:
    """The long ones that a verb takes, those of what is below it too."""
    module = importlib.import_module(f"torpor.commands.{command._MODULES.get(verb, verb)}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return {word for word in _words(parser) if word.startswith("--")} - {"--help"}


def _words(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _words(inner)


def complete(*words: str, names: tuple[str, ...] = ("web", "wiki")) -> set[str]:
    """What bash offers for the last word."""
    script = f"""
        source {PLACE / "torpor"}
        _torpor_names() {{ printf '%s\\n' {" ".join(names)}; }}
        COMP_WORDS=(torpor "$@") COMP_CWORD=$#
        _torpor
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", *words], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_offers_the_verbs() -> None:
    assert complete("") >= set(VERBS)
    assert not complete("") & HIDDEN
    assert complete("st") == {"status", "stop"}


@pytest.mark.parametrize("verb", VERBS)
def test_bash_offers_a_verbs_options(verb: str) -> None:
    assert complete(verb, "-") == options(verb)


@pytest.mark.parametrize(
    "verb", sorted(set(VERBS) - {"import", "doctor", "hooks", "metrics", "new"})
)
def test_bash_offers_names(verb: str) -> None:
    assert complete(verb, "w") >= {"web", "wiki"}


def test_bash_offers_what_belongs_there(tmp_path: Path) -> None:
    (tmp_path / "archive").touch()
    assert complete("import", f"{tmp_path}/a") == {f"{tmp_path}/archive"}
    assert complete("hooks", "") == {"add", "remove", "list"}
    assert complete("doctor", "") == set()
    assert complete("migrate", "--again", "we") == {"web"}


@pytest.mark.parametrize("verb", VERBS)
def test_zsh_and_fish_know_them_too(verb: str) -> None:
    zsh, fish = (PLACE / "_torpor").read_text(), (PLACE / "torpor.fish").read_text()
    assert f"'{verb}:" in zsh and f"'{verb}:" in fish
    case = re.search(rf"^\t[a-z |]*\b{verb}\b[a-z |]*\)(.*?);;", zsh, re.MULTILINE | re.DOTALL)
    assert case, f"no case for {verb}"
    assert set(re.findall(r"'(--[a-z-]+)", case[1])) == options(verb)
    lines = [
        line for line in fish.splitlines() if re.search(rf"__torpor_verb [^']*\b{verb}\b", line)
    ]
    found = {f"--{name}" for line in lines for name in re.findall(r" -l ([a-z-]+)", line)}
    assert found == options(verb)
