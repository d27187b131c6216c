"""What the manual pages say of the tests that show it."""

import ast
import dataclasses
import re
from pathlib import Path

from torpor import comparison, dumped_mounts, dumped_processes, inspection, open_files
from torpor.page_difference import Pages
from torpor.transitions import Transition

RECORDS = (
    inspection.Inspection,
    inspection.Space,
    inspection.Times,
    dumped_processes.Process,
    dumped_processes.SharedMemory,
    dumped_mounts.Mount,
    open_files.OpenFile,
    comparison.Difference,
    comparison.ProcessDifference,
    comparison.SharedDifference,
    Pages,
    Transition,
)
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


def test_each_key_of_a_json_document_is_explained() -> None:
    text = (TOP / "packaging/man/torpor.1.md").read_text()
    keys = {field.name for record in RECORDS for field in dataclasses.fields(record)}
    assert keys - set(re.findall(r"`(\w+)`", text)) == set()
