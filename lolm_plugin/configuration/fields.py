"""What the schema can say of a key, and what follows from it: the type of a value, its range, its choices."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from lolm_plugin.errors import ConfigError

Marked = TypeVar("Marked")

NOUNS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", list: "a list"}
POWER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)[eE][+-]?\d+")  # 1e6 is a number here, which yaml reads as a text


class Mark(Enum):
    """Properties of a key that take no argument."""

    MACHINE = "changes no expected number of a test, and may change in a resumed run"
    RESUMABLE = "may change in a resumed run, but makes another experiment of one that begins with another value"
    LABEL = "what a run is called or where its task is named: no setting of the experiment"
    NAME = "a text or texts from a checkpoint are believed if they are plain names"
    PATH = "a path, in which ~ is the home folder"
    RECORDED = "kept in the configuration of a resumed run, which never opens it"


@dataclass(frozen=True)
class Range:
    """Numbers that a key takes. Beyond ``most`` nothing runs, and what fails first is deep inside a library."""

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
    """Texts that a key takes where a run of lolm_plugin reads it."""

    def __new__(cls, *texts: str) -> "Choice":
        return super().__new__(cls, texts)


@dataclass(frozen=True)
class ReadIf:
    """A run reads the key only if ``test`` holds for the values of ``keys``.

    ``never``: setting the key in a run that does not read it is an error, as no run of that kind does; otherwise the
    log says so. ``why`` is for the sentence, by default what ``keys`` are.
    """

    keys: tuple[str, ...]
    test: Callable[..., bool]
    never: bool = False
    why: str = ""


@dataclass(frozen=True)
class Withheld:
    """A path, address, account or module, which is not taken from a checkpoint: a resumed run has ``default``.

    ``needed``: unless it is the default, the command line has to repeat it, as the run would be another one.
    """

    default: Any
    needed: bool = False


@dataclass(frozen=True)
class Trusted:
    """Texts that are taken from a checkpoint: they match ``pattern`` as a whole."""

    pattern: re.Pattern[str]


@dataclass(frozen=True)
class Field:
    """A key with its types, none where any value will do, and its marks."""

    key: str
    types: tuple[type, ...]
    marks: tuple[Any, ...] = ()

    def get(self, kind: type[Marked]) -> Marked | None:
        """Return the first mark of this class, if there is one."""
        return next((mark for mark in self.marks if isinstance(mark, kind)), None)

    def typed(self, value: Any, like: Any, where: str) -> Any:
        """Return a value in its key's type: 1e6 for a whole number becomes one. ``like`` is the yaml's value.

        Raises:
            ConfigError: the key takes no such value.
        """
        if value == "null" and (like is None or NoneType in self.types):  # as yaml files write it; Sacred reads None
            value = None
        for form in _forms(value):
            if not self.types or type(form) in self.types:
                return form
        wanted = self._words() if like is None else f"a value such as {like}"
        if str in self.types and isinstance(value, float):
            raise ConfigError(
                f"{self.key}={value} {where} is a number to Sacred, where a text is wanted; set {self.key} to "
                f"{wanted}, or quote it twice: '{self.key}=\"...\"'."
            )
        raise ConfigError(f"{self.key}={value} {where} is not {self._noun()}; set {self.key} to {wanted}.")

    def out_of_range(self, value: Any) -> str:
        """Return a sentence if a number is out of range, else nothing."""
        bounds = self.get(Range)
        if bounds is None or not isinstance(value, int | float) or value in bounds:
            return ""
        return f"{self.key}={value} is out of range; set {self.key} to {self._words()}."

    def no_choice(self, value: Any) -> str:
        """Return a sentence if a value is not one of the choices, else nothing."""
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
    """Yield the fields of a TypedDict and of those in it. A section's marks are those of all its keys."""
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
    """Yield the value, then what else it may be read as."""
    yield value
    if isinstance(value, str) and POWER.fullmatch(value):
        value = float(value)
        yield value
    if isinstance(value, float) and value.is_integer():
        yield int(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield float(value)
        yield str(value)  # Sacred reads a name of digits, such as a difficulty, as a number
