"""Texts stay plain: docstrings of functions begin with a verb, and words of the old dialect do not come back.

CONTRIBUTING.md explains the rules. Spelling is checked by codespell in ``make lint``.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = sorted(path for folder in ("lolm_plugin", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TEXTS = sorted(
    path
    for folder in ("docs", "examples", "config", "lolm_plugin", "benchmarks", "tests", "")
    for path in (ROOT / folder).glob("**/*" if folder else "*")
    if path.suffix in (".py", ".md", ".yaml", ".html") and path != Path(__file__)
)
# First words of the docstrings of functions. Add a verb here when a new function needs one.
VERBS = frozenset(
    re.findall(
        r"[a-z]+",
        """
        accumulate adapt add append apply ask average block build cast check choose clip clone close collect compare
        compile compute concatenate convert copy count create cut decay declare decode delete describe display divide do
        download draw drop encode estimate evaluate execute expand explain export fail fill filter find finish fit
        flatten flush fold follow forget format free give halve hash ignore imitate import index insert install
        integrate interpolate iterate keep kill let limit list load lock log look make map mark measure merge move
        multiply name nest open pad paint parse pass play postpone print push put raise read rebuild record redirect
        release remove rename render reorder repeat replace request resample reset resolve restore resume return round
        run sample save seed select send serialise serve set shift show shuffle silence simulate skip sort split stack
        start step stop store summarise suppress swap tabulate take test thin time tokenise train transform turn undo
        update use view wait warn wrap write yield
    """,
    )
)
CLAUSES = ("How", "That", "Those", "What", "When", "Where", "Whether", "Which", "Who", "Whoever", "Whose", "Why")
# Each is hard to understand for readers whose first language is not English, or has a plainer word in brackets.
DIALECT = {
    r"go(es|ing)? on": "continue",
    r"mend(s|ed|ing)?": "fix",
    r"nobody": "no one, nothing",
    r"of (its|their) own": "own, separate",
    r"makes of": "computes",
    r"whoever": "the process or person that",
    r"for good": "permanently",
    r"as it was (written|played|before)": "unchanged",
    r"what is due": "which events are pending",
}
# Prompts are data: a language model has learned from these words.
PROMPTS = ("which nobody has described",)


def functions(path):
    """Yield each function of a file, except properties, whose docstring says what they are."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = {getattr(mark, "id", getattr(mark, "attr", "")) for mark in node.decorator_list}
            if not names & {"property", "cached_property"}:
                yield node


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_docstring_of_a_function_begins_with_a_verb(path):
    wrong = [
        f"{path.name}:{node.lineno} {node.name}: {text.splitlines()[0]}"
        for node in functions(path)
        if (text := ast.get_docstring(node)) and text.split()[0].strip(",.:;").lower() not in VERBS
    ]
    assert wrong == [], "begin with an imperative verb; if it is a verb, add it to VERBS"


@pytest.mark.parametrize("path", [*CODE, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_docstring_begins_with_a_clause(path):
    wrong = [
        f"{path.name}: {text.splitlines()[0]}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if (text := ast.get_docstring(node)) and text.split()[0] in CLAUSES
    ]
    assert wrong == [], "say what it is or does: a noun, a verb or a whole sentence"


@pytest.mark.parametrize("word", DIALECT)
def test_no_word_of_the_dialect_comes_back(word):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in TEXTS
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(rf"\b{word}\b", line, flags=re.IGNORECASE) and not any(prompt in line for prompt in PROMPTS)
    ]
    assert found == [], f"say: {DIALECT[word]}"
