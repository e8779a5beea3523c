"""The record of battles, ``battle/1``: versioned JSON with columns over time, written by tests and read by the page.

A record holds numbers, names and texts of the task. It never holds a path, an address or an account. It may come from
someone else, so ``read`` checks every type and every length, and nothing that a record names is opened or run.
"""

import re
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lolm_plugin import strict_json
from lolm_plugin.errors import ConfigError, one_line
from lolm_plugin.untrusted import Unreadable, read_json

FORMAT = "battle/1"
LARGEST = 64 * 2**20  # bytes of a file that is still read; four battles of 3s5z_vs_3s6z have about 1,000,000
NAME = re.compile(r"battle/\d{1,4}")
PROMPT = re.compile(r"\d+( -?\d+\.\d+)*(\|\d+( -?\d+\.\d+)*)*")

Text = Annotated[str, Field(max_length=100_000)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Index = Annotated[int, Field(ge=0)]
Mask = Annotated[str, Field(pattern=r"^[01]*$")]  # one digit for each action or unit
Column = list[Number | None]  # over time; None: no value


class _Part(BaseModel):
    """A part of a record. Unknown keys and other types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Units(_Part):
    """Everything that is drawn, as columns over units: agents first. Positions are [units][length + 1].

    ``side`` is 0 for the agents' team, 1 for their enemies, 2 for things and 3 for what fills a cell of the ground. A
    unit has no position while it is dead or absent. ``health`` and ``shield`` are shares of the maximum, None for a
    task that has none.
    """

    label: list[Text]
    kind: list[Text]
    side: list[Annotated[int, Field(ge=0, le=3)]]
    x: list[Column]
    y: list[Column]
    health: list[Column] | None
    shield: list[Column] | None


class Agent(_Part):
    """The options, view, numbers and actions of one agent, as columns over the steps of the battle.

    ``names`` and ``targets`` are the name of each action and the unit that it is about (-1: none). ``available`` and
    ``sees`` are indices in ``Record.masks``: of actions, and of units. ``policy`` has the probability of each available
    action in order, and ``reference`` that of the frozen model; both are null in steps without a choice. ``entropy``
    and ``kl`` (policy || reference) are in nats. ``prompt`` is described in ``Record``. ``attention`` has one share per
    unit.
    """

    names: list[Text]
    targets: list[Annotated[int, Field(ge=-1)]]
    action: list[Index]
    available: list[Index]
    sees: list[Index]
    policy: list[list[Number] | None]
    reference: list[list[Number] | None] | None
    entropy: Column
    kl: Column | None
    value: Column | None
    prompt: list[Text | None] | None
    attention: list[list[Number] | None] | None


class Battle(_Part):
    """One battle of ``length`` steps. ``won`` is null if the task has no winner, or if the state does not show it.

    ``shots`` are [step, enemy, agent], inferred from cooldowns and lost health. They are empty if the state does not
    show the enemies' cooldowns.
    """

    length: Index
    won: bool | None
    total_reward: Number
    reward: list[Number]
    units: Units
    agents: list[Agent]
    shots: list[list[Index]] = []


class Record(_Part):
    """Battles of one test.

    A prompt is ``prefix`` and one text per agent and step: sentences joined by ``|``. A sentence is the index of its
    form, then its numbers: ``7 0.45 1.00`` is ``forms[7]`` with 0.45 and 1.00 between its pieces. ``about[7]`` is the
    unit that the sentence is about, or -1. ``read`` is False if the policy is not a language model: the texts then say
    what its observation means.
    """

    format: Literal["battle/1"]
    program: Text
    algorithm: Text
    model: Text
    env: Text
    map: Text
    seed: int
    step: Index
    greedy: bool
    n_base_actions: Index
    prefix: Text
    read: bool
    forms: list[list[Text]]
    about: list[Annotated[int, Field(ge=-1)]]
    masks: list[Mask]
    battles: list[Battle]

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Raise ValueError unless all lengths and indices fit together."""
        _same(len(self.forms), self.about, "about")
        for battle in self.battles:
            _check_battle(self, battle)
        return self


def dumps(record: Record) -> str:
    """Serialise a record as compact JSON."""
    return strict_json.dumps(record.model_dump(), separators=(",", ":"))


def read(path: Path) -> Record:
    """Read a record. Raises ConfigError for a file that is not a whole record of a known version."""
    try:
        content = read_json(path, LARGEST)
    except Unreadable as reason:
        raise ConfigError(f"{path} {reason}; name a record that lolm watch --json or keep_battles wrote.") from reason
    return parse(content, str(path))


def parse(content: Any, name: str) -> Record:
    """Check a decoded record. ``name`` is its file, for errors. Raises ConfigError as ``read``."""
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        if isinstance(version, str) and NAME.fullmatch(version):
            raise ConfigError(f"{name} has the format {version}, which this version cannot read; update lolm_plugin.")
        raise ConfigError(f"{name} is not a record of battles; name one that lolm watch --json or keep_battles wrote.")
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "its lengths"
        raise ConfigError(
            f"{name} is damaged: {one_line(where)} is wrong ({one_line(first['msg'])}); record the battles again."
        ) from error


def _same(length: int, column: list[Any] | None, name: str) -> None:
    if column is not None and len(column) != length:
        raise ValueError(f"{name} has {len(column)} entries instead of {length}")


def _below(limit: int, indices: Any, name: str) -> None:
    if max(indices, default=-1) >= limit:
        raise ValueError(f"{name} has an index above {limit - 1}")


def _check_battle(record: Record, battle: Battle) -> None:
    units, length = battle.units, battle.length
    count = len(units.label)
    _same(length, battle.reward, "reward")
    for name in ("kind", "side", "x", "y", "health", "shield"):
        _same(count, getattr(units, name), name)
    for name in ("x", "y", "health", "shield"):
        for column in getattr(units, name) or []:
            _same(length + 1, column, name)
    _below(count + 1, [len(battle.agents)], "agents")
    for shot in battle.shots:
        _same(3, shot, "shots")
        _below(length, shot[:1], "shots")
        _below(count, shot[1:], "shots")
    for agent in battle.agents:
        _check_agent(record, agent, length, count)


def _check_agent(record: Record, agent: Agent, length: int, units: int) -> None:
    actions = len(agent.names)
    for name in ("action", "available", "sees", "policy", "reference", "entropy", "kl", "value", "prompt", "attention"):
        _same(length, getattr(agent, name), name)
    _same(actions - record.n_base_actions, agent.targets, "targets")
    _below(actions, agent.action, "action")
    _below(units, agent.targets, "targets")
    _below(len(record.masks), chain(agent.available, agent.sees), "available or sees")
    for available, sees, *numbers in zip(
        agent.available, agent.sees, agent.policy, agent.reference or agent.policy, strict=True
    ):
        _same(actions, list(record.masks[available]), "available")
        _same(units, list(record.masks[sees]), "sees")
        for column in numbers:
            _same(record.masks[available].count("1"), column, "policy or reference")
    for shares in agent.attention or []:
        _same(units, shares, "attention")
    for prompt in agent.prompt or []:
        if prompt is not None:
            _check_prompt(record, prompt)


def _check_prompt(record: Record, prompt: str) -> None:
    if not PROMPT.fullmatch(prompt):
        raise ValueError("a prompt is not a list of sentences")
    for sentence in prompt.split("|"):
        form, *numbers = sentence.split(" ")
        _below(len(record.forms), [int(form)], "prompt")
        _same(len(record.forms[int(form)]) - 1, numbers, "a sentence")


def text_of(record: Record, prompt: str) -> list[tuple[str, int]]:
    """Return the sentences of a prompt, each with the unit that it is about (-1: none)."""
    sentences = []
    for sentence in prompt.split("|"):
        form, *numbers = sentence.split(" ")
        pieces = record.forms[int(form)]
        written = pieces[0] + "".join(number + piece for number, piece in zip(numbers, pieces[1:], strict=True))
        sentences.append((written, record.about[int(form)]))
    return sentences
