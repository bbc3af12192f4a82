"""What the code imports, what pyproject.toml asks for, and what constraints.txt pins are the same packages."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
OURS = {"lab", "app", "pages", "tests", "benchmarks"}
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\s<>=!~;\[]", requirement)[0]) for requirement in requirements}


def imported_packages(*folders: str) -> set[str]:
    """Distributions that the Python files of these folders import, wherever the import stands."""
    modules = set()
    for folder in folders:
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    modules |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    modules.add((node.module or "").partition(".")[0])
    modules -= OURS | set(sys.stdlib_module_names)
    packages = metadata.packages_distributions()
    return {normal(packages[module][0]) if module in packages else module for module in modules}


def test_everything_the_lab_imports_is_asked_for():
    # pydantic's own core is part of pydantic
    assert imported_packages("lab", "app", "pages") - {"pydantic-core"} <= names(PROJECT["dependencies"])


def test_everything_that_is_asked_for_is_imported():
    imported_by_transformers = {"accelerate", "gguf"}  # for quantised models, and for the file of smollm2-135m
    assert names(PROJECT["dependencies"]) - imported_by_transformers <= imported_packages("lab", "app", "pages")


def test_everything_the_tests_import_is_asked_for():
    asked = names(PROJECT["dependencies"]) | names(PROJECT["optional-dependencies"]["test"])
    assert imported_packages("tests") <= asked


def test_every_package_that_is_asked_for_is_pinned():
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pinned = {normal(line.partition("==")[0]) for line in lines if "==" in line}
    extras = PROJECT["optional-dependencies"]
    asked = names(PROJECT["dependencies"]).union(*(names(extras[extra]) for extra in ("test", "dev", "bench")))
    assert asked <= pinned


def test_torch_is_pinned_without_a_build_so_that_pip_takes_the_machines_own():
    (pin,) = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if line.startswith("torch==")]
    assert "+" not in pin
