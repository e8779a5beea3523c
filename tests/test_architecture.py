"""Rules of the code base: imports point one way, no import cycles, a comment for every key, short files."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lolm_plugin"
# The top-level files: any package may import them, and they import only each other.
FILES = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
# Each package may import the packages before it. suites and report do not import each other. So environments and
# runners may import observations, but no models.
ORDER = (
    *("configuration", "observations", "envs", "runners", "prompts", "llm", "modules", "controllers", "learners"),
    *("tracking", "host", "watch", "run", "doctor", ("suites", "report"), "commands"),
)


def _modules():
    """Return every module of the package by its dotted name."""
    modules = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


MODULES = _modules()


def _imports(path):
    """Yield the modules of lolm_plugin that a file imports, including imports inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


IMPORTS = {name: {other for other in _imports(path) if other in MODULES} - {name} for name, path in MODULES.items()}


def _package(module):
    """Return a module's package (``lolm_plugin.llm.tiny`` -> ``llm``), or a top-level file's name."""
    return module.split(".")[1] if "." in module else ""


def _wrong(package, allowed):
    """Return the forbidden imports of a package as (importing, imported)."""
    allowed = allowed | FILES | {package, ""}
    sources = [name for name in MODULES if _package(name) == package]
    return sorted((name, other) for name in sources for other in IMPORTS[name] if _package(other) not in allowed)


LEVELS = [(level,) if isinstance(level, str) else level for level in ORDER]
BEFORE = {
    package: {earlier for level in LEVELS[:number] for earlier in level}
    for number, level in enumerate(LEVELS)
    for package in level
}


@pytest.mark.parametrize("package", BEFORE)
def test_imports_point_one_way(package):
    assert _wrong(package, BEFORE[package]) == []


@pytest.mark.parametrize("file", sorted(FILES))
def test_top_level_files_import_no_package(file):
    assert _wrong(file, set()) == []


def test_every_package_is_in_the_order():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == BEFORE.keys()


def test_there_are_no_import_cycles_even_inside_functions():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_imports_inside_functions_are_found(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("def work():\n    from lolm_plugin.llm import tiny\n    import lolm_plugin.errors\n")
    assert list(_imports(path)) == ["lolm_plugin.llm.tiny", "lolm_plugin.errors"]


@pytest.mark.parametrize("path", sorted((ROOT / "config").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_key_has_a_comment(path):
    for line in path.read_text().splitlines():
        key, _, rest = line.partition(":")
        if key.strip() and not line.startswith("#") and rest.strip():
            assert " # " in line, f"{path.name}: {key.strip()}"


def test_every_json_file_is_strict_json():
    """Only ``strict_json`` writes files; ``json.dumps`` is for checksums, comparisons and messages."""
    others = {"checkpoints.py", "experiment.py", "run_documents.py", "record_files.py"}
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert "json.dump(" not in text, path
        for line in text.splitlines():
            if re.search(r"(?<!strict_)json\.dumps\(", line) and path.name != "strict_json.py":
                assert path.name in others, f"{path}: {line.strip()}"
                assert "write" not in line, f"{path}: {line.strip()}"


def test_no_file_is_long():
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        assert len(path.read_text().splitlines()) <= 500, path


def test_the_readme_is_short_and_its_links_are_valid():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    for link in [part.split(")")[0] for part in text.split("](")[1:]]:
        assert link.startswith("https://") or (ROOT / link).exists(), link
