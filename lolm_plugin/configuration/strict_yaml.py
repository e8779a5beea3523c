"""Read yaml strictly: plain data alone, no key twice, nothing that a few lines expand without end."""

from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

# A configuration has some hundred values. Aliases of aliases (`b: [*a, *a]`, `c: [*b, *b]`, ...) double with each line,
# and 30 lines of them would fill the memory as soon as they are printed. More values allow larger tables.
MOST_VALUES = 100_000
MERGE = "tag:yaml.org,2002:merge"


class StrictYamlError(Exception):
    """The text cannot be used as it stands; the message says where and why, without a full stop."""


class RepeatedKeyError(StrictYamlError):
    """A key stands twice with different values, and yaml would take the last one."""


def load(content: bytes) -> Any:
    """Return the content of a yaml text, None for an empty one.

    A key that stands twice with the same plain value loses nothing and is accepted: EPyMARL's own vdn.yaml has one.

    Raises:
        RepeatedKeyError: a key twice; its message names both lines.
        StrictYamlError: not yaml, not plain data, or values that contain themselves.
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
        raise StrictYamlError(f"a value is not what it is marked as: {' '.join(str(error).split())[:80]}") from error


def _check_size(node: Node, sizes: dict[int, int], above: set[int]) -> int:
    """Return how many values the node stands for, aliases written out."""
    if isinstance(node, ScalarNode):
        return 1
    if id(node) in above:
        raise StrictYamlError(f"line {_line(node)} contains itself")
    if id(node) not in sizes:
        children = [child for pair in node.value for child in pair] if isinstance(node, MappingNode) else node.value
        sizes[id(node)] = 1 + sum(_check_size(child, sizes, above | {id(node)}) for child in children)
        if sizes[id(node)] > MOST_VALUES:
            raise StrictYamlError(f"line {_line(node)} stands for more than {MOST_VALUES} values")
    return sizes[id(node)]


def _check_keys(root: Node) -> None:
    """Raise RepeatedKeyError for a key that stands twice, also as ``kl: {eps: 1}`` and ``kl.eps: 2``."""
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
            raise RepeatedKeyError(f"{name} stands twice, in line {_line(before[0])} and in line {_line(key)}")


def _mappings(node: Node, seen: set[int]) -> Iterator[MappingNode]:
    """Yield every mapping once, however many aliases it has."""
    if isinstance(node, ScalarNode) or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, MappingNode):
        yield node
    for child in node.value:
        for part in child if isinstance(node, MappingNode) else (child,):
            yield from _mappings(part, seen)


def _leaves(node: MappingNode, prefix: str) -> Iterator[tuple[str, Node, Node]]:
    """Yield flat keys with the nodes of their last part and of their value."""
    for key, value in node.value:
        if not isinstance(key, ScalarNode) or key.tag == MERGE:
            continue
        if isinstance(value, MappingNode) and value.value:
            yield from _leaves(value, f"{prefix}{key.value}.")
        else:
            yield f"{prefix}{key.value}", key, value


def _line(node: Node) -> int:
    return node.start_mark.line + 1
