"""What the manual pages say of the tests that show it."""

import ast
import dataclasses
import re
from pathlib import Path

from torpor import comparison, dumped_mounts, dumped_processes, inspection, open_files
from torpor.container import Container
from torpor.images import Generation
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
STATE = TOP / "packaging/man/torpor-state.7.md"
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


def test_each_place_of_a_container_is_in_the_manual_of_its_state() -> None:
    container = Container("web")
    places = {
        name: getattr(container, name)
        for name, what in vars(Container).items()
        if isinstance(what, property)
    }
    text = STATE.read_text()
    for above in (container.state_dir, container.run_dir):
        found = [path for path in places.values() if path.startswith(above)]
        inside = {path.removeprefix(f"{above}/") for path in found}
        assert inside
        section = text.partition(f"# IN {above.replace('web', 'NAME')}\n")[2].partition("\n# ")[0]
        terms = {
            term.rstrip("/").removesuffix("/N")
            for line in re.findall(r"^([^\n:].*)\n: ", section, re.MULTILINE)
            for term in line.split(", ")
        }
        assert inside <= terms, f"not in the manual: {inside - terms}"


def test_each_file_of_a_generation_is_in_the_manual_of_its_state() -> None:
    generation = Generation(Container("web"), 7)
    section = STATE.read_text().partition("# A GENERATION\n")[2].partition("\n# ")[0]
    for name, what in vars(Generation).items():
        if isinstance(what, property):
            found = getattr(generation, name).rpartition("/")[2]
            assert re.search(rf"^(.*, )?{re.escape(found)}/?(, .*)?$", section, re.MULTILINE), found
