"""Lets tests import torpor from the checkout, laid out as setup.cfg says, with no installation."""

import importlib.util
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]

# in the order of import: a package before what is in it
PACKAGES = {
    "torpor": TOP / "helpers",
    "torpor.hooks": TOP / "hooks",
    "torpor.commands": TOP / "helpers/commands",
}


def load(name: str, directory: Path) -> None:
    """Import a directory as the package of this name."""
    spec = importlib.util.spec_from_file_location(
        name, directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    assert spec and spec.loader
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)


for package_name, package_directory in PACKAGES.items():
    if (package_directory / "__init__.py").exists():
        load(package_name, package_directory)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory to put on the module path of another process: it holds torpor as installed."""
    directory = tmp_path_factory.mktemp("library")
    package = directory / "torpor"
    package.mkdir()
    for entry in (TOP / "helpers").iterdir():
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    (package / "hooks").symlink_to(TOP / "hooks")
    return directory
