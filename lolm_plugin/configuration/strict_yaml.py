"""Read yaml strictly: only plain data, no key twice, and no aliases that expand to huge data."""

from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

# A configuration has a few hundred values. Aliases of aliases (`b: [*a, *a]`, `c: [*b, *b]`, ...) double with each
# line: 30 such lines would fill the memory when they are printed. A larger limit allows larger tables.
MOST_VALUES = 100_000
MERGE = "tag:yaml.org,2002:merge"


class StrictYamlError(Exception):
    """The text cannot be used. The message says where and why, without a full stop."""


class RepeatedKeyError(StrictYamlError):
    """A key appears twice with different values, and yaml would take the last one."""


def load(content: bytes) -> Any:
    """Parse a yaml text; an empty text gives None.

    A key that appears twice with the same plain value is accepted: EPyMARL's own vdn.yaml has one.

    Raises:
        RepeatedKeyError: a key appears twice. The message names both lines.
        StrictYamlError: not yaml, not plain data, too many values, or values that contain themselves.
    """
    try:
        loader = yaml.SafeLoader(content)
        root = loader.get_single_node()
        if root is None:
            return None
        _check_size(root, {}, set())
        _check_keys(root)
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        raise StrictYamlError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise StrictYamlError("it is nested too deeply") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # PyYAML checks a tag's form, not its value: `2020-13-45`, `0b`, `!!bool x`.
        raise StrictYamlError(f"a value does not fit its type: {' '.join(str(error).split())[:80]}") from error


def _check_size(node: Node, sizes: dict[int, int], above: set[int]) -> int:
    """Return the number of values in a node, with aliases expanded."""
    if isinstance(node, ScalarNode):
        return 1
    if id(node) in above:
        raise StrictYamlError(f"line {_line(node)} contains itself")
    if id(node) not in sizes:
        children = [child for pair in node.value for child in pair] if isinstance(node, MappingNode) else node.value
        sizes[id(node)] = 1 + sum(_check_size(child, sizes, above | {id(node)}) for child in children)
        if sizes[id(node)] > MOST_VALUES:
            raise StrictYamlError(f"line {_line(node)} expands to more than {MOST_VALUES} values")
    return sizes[id(node)]


def _check_keys(root: Node) -> None:
    """Raise RepeatedKeyError for a key that appears twice, also as ``kl: {eps: 1}`` and ``kl.eps: 2``."""
    for mapping in _mappings(root, set()):
        _check_unique((key.value, key, value) for key, value in mapping.value if isinstance(key, ScalarNode))
    if isinstance(root, MappingNode):
        _check_unique(_leaves(root, ""))


def _check_unique(entries: Iterable[tuple[str, Node, Node]]) -> None:
    first: dict[str, tuple[Node, Node]] = {}
    for name, key, value in entries:
        before = first.setdefault(name, (key, value))
        same = isinstance(value, ScalarNode) and (before[1].tag, before[1].value) == (value.tag, value.value)
        if before[0] is not key and not same:
            raise RepeatedKeyError(f"{name} appears twice, in line {_line(before[0])} and in line {_line(key)}")


def _mappings(node: Node, seen: set[int]) -> Iterator[MappingNode]:
    """Yield every mapping once, even if it has aliases."""
    if isinstance(node, ScalarNode) or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, MappingNode):
        yield node
    for child in node.value:
        for part in child if isinstance(node, MappingNode) else (child,):
            yield from _mappings(part, seen)


def _leaves(node: MappingNode, prefix: str) -> Iterator[tuple[str, Node, Node]]:
    """Yield each flat key with the node of its last part and the node of its value."""
    for key, value in node.value:
        if not isinstance(key, ScalarNode) or key.tag == MERGE:
            continue
        if isinstance(value, MappingNode) and value.value:
            yield from _leaves(value, f"{prefix}{key.value}.")
        else:
            yield f"{prefix}{key.value}", key, value


def _line(node: Node) -> int:
    return node.start_mark.line + 1
