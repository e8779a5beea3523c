"""Fields of the schema and their marks: types, ranges, choices and other properties of a key, and their checks."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from lolm_plugin.errors import ConfigError

Marked = TypeVar("Marked")

NOUNS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", list: "a list"}
POWER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)[eE][+-]?\d+")  # yaml reads 1e6 as a text; here it is a number


class Mark(Enum):
    """Properties of a key that take no argument."""

    MACHINE = "does not change the expected result of a test, and may change in a resumed run"
    RESUMABLE = "may change in a resumed run, but a new run with another value is another experiment"
    LABEL = "names a run or its task; not a setting of the experiment"
    NAME = "a text or a list of texts that is taken from a checkpoint if all are plain names"
    PATH = "a path, in which ~ is the home folder"
    RECORDED = "kept in the configuration of a resumed run, but never opened by it"


@dataclass(frozen=True)
class Range:
    """Range of the numbers that a key takes. A number above ``most`` would fail deep inside a library."""

    least: float | None = None
    above: float | None = None  # excluded
    most: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
        )

    def words(self, noun: str) -> str:
        """Describe the range for a sentence."""
        if self.above is not None:
            return f"{noun} greater than {self.above}" + (f" and at most {self.most}" if self.most else "")
        return f"{noun} from {self.least} to {self.most}" if self.most else f"{self.least} or more"


class Choice(tuple[str, ...]):
    """Texts that a key takes. Checked only if a run of lolm_plugin reads the key."""

    def __new__(cls, *texts: str) -> "Choice":
        return super().__new__(cls, texts)


@dataclass(frozen=True)
class ReadIf:
    """Condition for a run to read the key: ``test`` is true for the values of ``keys``.

    ``never``: no run of that kind reads the key, so setting it is an error. Otherwise it is only noted in the log.
    ``why`` is the reason in that sentence, by default the values of ``keys``.
    """

    keys: tuple[str, ...]
    test: Callable[..., bool]
    never: bool = False
    why: str = ""


@dataclass(frozen=True)
class Withheld:
    """A path, address, account or module. It is not taken from a checkpoint: a resumed run uses ``default``.

    ``needed``: if it is not the default, the command line must repeat it, because the run depends on it.
    """

    default: Any
    needed: bool = False


@dataclass(frozen=True)
class Trusted:
    """Texts that are taken from a checkpoint: ``pattern`` matches the whole text."""

    pattern: re.Pattern[str]


@dataclass(frozen=True)
class Field:
    """A key with its types and marks. Without types, any value is accepted."""

    key: str
    types: tuple[type, ...]
    marks: tuple[Any, ...] = ()

    def get(self, kind: type[Marked]) -> Marked | None:
        """Return the first mark of this class, or None."""
        return next((mark for mark in self.marks if isinstance(mark, kind)), None)

    def typed(self, value: Any, like: Any, where: str) -> Any:
        """Convert a value to its key's type: 1e6 becomes a whole number if the key takes one.

        ``like`` is the value in the yaml, None if it has none.

        Raises:
            ConfigError: the value has another type.
        """
        if value == "null" and (like is None or NoneType in self.types):  # yaml files write null; Sacred reads None
            value = None
        for form in _forms(value):
            if not self.types or type(form) in self.types:
                return form
        wanted = self._words() if like is None else f"a value such as {like}"
        if str in self.types and isinstance(value, float):
            raise ConfigError(
                f"{self.key}={value} {where} is a number to Sacred, but the key takes a text; set {self.key} to "
                f"{wanted}, or quote it twice: '{self.key}=\"...\"'."
            )
        raise ConfigError(f"{self.key}={value} {where} is not {self._noun()}; set {self.key} to {wanted}.")

    def out_of_range(self, value: Any) -> str:
        """Return an error sentence if a number is out of range, else an empty string."""
        bounds = self.get(Range)
        if bounds is None or not isinstance(value, int | float) or value in bounds:
            return ""
        return f"{self.key}={value} is out of range; set {self.key} to {self._words()}."

    def no_choice(self, value: Any) -> str:
        """Return an error sentence if a value is not one of the choices, else an empty string."""
        choices = self.get(Choice)
        if choices is None or value in choices or (value is None and NoneType in self.types):
            return ""
        listed = ", ".join((*(["null"] if NoneType in self.types else []), *choices))
        return f"{self.key}={value} is not a choice; set it to one of: {listed}."

    def _noun(self) -> str:
        return next((NOUNS.get(kind, "a section") for kind in self.types if kind is not NoneType), "a number")

    def _words(self) -> str:
        """Describe the values that the key takes."""
        choices, bounds = self.get(Choice), self.get(Range)
        said = f"one of: {', '.join(choices)}" if choices else bounds.words(self._noun()) if bounds else self._noun()
        return f"{said}, or null" if NoneType in self.types else said


def fields_of(section: Any, prefix: str = "", marks: tuple[Any, ...] = ()) -> Iterator[Field]:
    """Yield the fields of a TypedDict and of its sections. A section's marks apply to all its keys."""
    for name, annotation in get_type_hints(section, include_extras=True).items():
        types, own = _parsed(annotation)
        if types and is_typeddict(types[0]):
            yield from fields_of(types[0], f"{prefix}{name}.", (*marks, *own))
        else:
            yield Field(f"{prefix}{name}", types, (*marks, *own))


def _parsed(annotation: Any) -> tuple[tuple[type, ...], tuple[Any, ...]]:
    """Return the types and marks of an annotation."""
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        types, below = _parsed(inner)
        return types, (*below, *marks)
    if get_origin(annotation) in (Union, UnionType):
        parts = [_parsed(part) for part in get_args(annotation)]
        return tuple(kind for types, _ in parts for kind in types), tuple(mark for _, marks in parts for mark in marks)
    return (() if annotation is Any else (get_origin(annotation) or annotation,)), ()


def _forms(value: Any) -> Iterator[Any]:
    """Yield the value, then its other possible readings."""
    yield value
    if isinstance(value, str) and POWER.fullmatch(value):
        value = float(value)
        yield value
    if isinstance(value, float) and value.is_integer():
        yield int(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield float(value)
        yield str(value)  # Sacred reads a name of digits, such as a difficulty, as a number
