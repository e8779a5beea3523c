"""What keeps the code base findable: the direction of imports, the comment of every key."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lolm_plugin"
ORDER = ("observations", "prompts", "llm", "modules", "controllers", "learners", "host", "experiments")
# Beside the arrow: what may not know models.
NO_MODELS = ("envs", "runners")


def imports(path):
    """The parts of lolm_plugin that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name.startswith("lolm_plugin."):
                yield name.split(".")[1]


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_one_way(package):
    later = set(ORDER[ORDER.index(package) + 1 :])
    for path in (PACKAGE / package).rglob("*.py"):
        assert not later & set(imports(path)), path


@pytest.mark.parametrize("package", NO_MODELS)
def test_environments_and_runners_know_no_models(package):
    for path in (PACKAGE / package).rglob("*.py"):
        assert not {"llm", "modules", "controllers", "learners", "host", "prompts"} & set(imports(path)), path


@pytest.mark.parametrize("path", sorted((ROOT / "config").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_key_has_a_comment(path):
    for line in path.read_text().splitlines():
        key, _, rest = line.partition(":")
        if key.strip() and not line.startswith("#") and rest.strip():
            assert " # " in line, f"{path.name}: {key.strip()}"


def test_every_json_file_is_strict_json():
    """Files are written by ``strict_json``; ``json.dumps`` itself is for checksums, comparisons and messages."""
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


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    for link in [part.split(")")[0] for part in text.split("](")[1:]]:
        assert link.startswith("https://") or (ROOT / link).exists(), link
