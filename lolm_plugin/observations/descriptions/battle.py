"""A battle's layout as a description, for prompts without a hand-written style."""

from lolm_plugin.observations.description import Choice, Description, Entities, Field, Number, Place, Targets, Word
from lolm_plugin.observations.layout import BASE_ACTIONS, Block, ObservationLayout
from lolm_plugin.observations.units import HEALERS, NAMES, UNKNOWN

UNREAD = {"can_target", "visible", "dx", "dy"}  # the actions tell the first; the last two are the place
SHARE = "a share of the maximum"


def describe(layout: ObservationLayout) -> Description:
    """What ``layout`` reads, in the words of its fields' names."""
    own = layout.own
    return Description(
        env=layout.env,
        map_name=layout.map_name,
        size=layout.size,
        n_agents=layout.n_agents,
        task="a battle",
        agent="unit",
        goal="Kill all enemies and stay alive.",
        own=_fields(own, layout, own.start),
        entities=(_units("ally", layout.allies, layout), _units("enemy", layout.enemies, layout)),
        actions=BASE_ACTIONS,
        targets=_targets(layout),
        n_targets=layout.n_targets,
    )


def _units(name: str, block: Block, layout: ObservationLayout) -> Entities:
    return Entities(
        name,
        starts=tuple(range(block.start, block.end, block.width)),
        fields=_fields(block, layout),
        shown_by=tuple(range(len(block.fields) + len(block.kinds))),
        skips_self=name == "ally",
    )


def _fields(block: Block, layout: ObservationLayout, start: int = 0) -> tuple[Field, ...]:
    """The type, the place and the other fields of a unit whose numbers begin at ``start``."""
    fields: list[Field] = []
    if block.kinds:
        bits = start + len(block.fields)
        fields.append(Choice(bits, tuple(NAMES[kind] for kind in block.kinds)))
    elif block.only_kind != UNKNOWN:
        fields.append(Word(NAMES[block.only_kind]))
    sight, unit = (layout.sight, "in cells") if isinstance(layout.sight, float | int) else (1.0, "shares of your sight")
    if "dx" in block.fields:
        x, y = (start + block.fields.index(name) for name in ("dx", "dy"))
        fields.append(Place(("east", "west", "north", "south"), x, y, decimals=1, unit=unit, scale=sight))
    for at, name in enumerate(block.fields, start):
        if name == "dist":
            fields.append(Number("distance", at, decimals=1, unit=unit, scale=sight))
        elif name not in UNREAD:
            fields.append(Number(name.replace("_", " "), at, unit=SHARE))
    return tuple(fields)


def _targets(layout: ObservationLayout) -> tuple[Targets, ...]:
    attack = Targets("attack", "enemy")
    if not layout.has_healers:
        return (attack,)
    bits = layout.own.start + len(layout.own.fields)
    healers = tuple(bits + i for i, kind in enumerate(layout.own.kinds) if kind in HEALERS)
    return Targets("heal", "ally", when=healers), attack
