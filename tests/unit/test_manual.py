"""What the manual pages say of the tests that show it."""

import ast
import re
from pathlib import Path

TOP = Path(__file__).parents[2]
HOOKS = TOP / "packaging/man/torpor-hooks.7.md"
TESTS = TOP / "tests/machine/test_systemd_hook.py"


def test_each_row_of_the_comparison_names_a_test_of_its_own() -> None:
    text = HOOKS.read_text().partition("# COMPARED WITH oci-systemd-hook")[2].partition("\n# ")[0]
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 12
    named = [re.findall(r"`(test_\w+)`", row) for row in rows]
    assert all(len(names) == 1 for names in named), "a row with no test, or with many"
    names = [names[0] for names in named]
    assert len(set(names)) == len(names)
    there = {
        node.name
        for node in ast.parse(TESTS.read_text()).body
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node)
    }
    assert set(names) <= there
