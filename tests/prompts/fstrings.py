"""The texts of the styles paper and compact as f-strings, one scene at a time."""

from tests.prompts.plain_scene import Scene, SeenUnit

SHORT_ACTIONS = {"no-op": "none", **{f"move {way}": way for way in ("north", "south", "east", "west")}}


def paper(scene: Scene) -> tuple[str, ...]:
    """Return full sentences, in the order of ``Words``."""
    me = scene.me
    where = "" if me.x is None else f", at {me.x:.2f} of the map's width and {me.y:.2f} of its height"
    shown = _shown(", {} {:.2f}", health=me.health, shield=me.shield, cooldown=me.cooldown)
    reach = _shown(", {} range {:.0f}", **{"healing" if me.kind == "medivac" else "attack": me.attack_range})
    return (
        f"Current state:\nYou are ally {me.number}, {_a(me.kind)}{shown}{reach}{where}.\n",
        "".join(map(_paper_unit, scene.allies)) or "You see no ally.\n",
        "".join(map(_paper_unit, scene.enemies)) or "You see no enemy.\n",
        f"Available actions: {', '.join(scene.actions)}.\n",
        "The best action is:",
    )


def compact(scene: Scene) -> tuple[str, ...]:
    """Return one short line per unit, in the order of ``Words``."""
    me = scene.me
    actions = [SHORT_ACTIONS.get(name, name.replace(" enemy ", " ").replace(" ally ", " ")) for name in scene.actions]
    return (
        f"You: {me.kind}{_shown(' {} {:.2f}', hp=me.health, shield=me.shield)}"
        f"{_shown(' {} {:.0f}', range=me.attack_range)}{_shown(' {} {:.2f}', wait=me.cooldown or None)}\n",
        "".join(map(_compact_unit, scene.allies)),
        "".join(map(_compact_unit, scene.enemies)),
        f"Actions: {' '.join(actions)}\n",
        "Best:",
    )


WORDS = {"paper": paper, "compact": compact}


def _paper_unit(unit: SeenUnit) -> str:
    name = f"{unit.side.capitalize()} {unit.number}"
    if not unit.seen:
        return f"{name} is {'in range, details unknown' if unit.in_range else 'dead or out of sight'}.\n"
    east_west = f"{abs(unit.east):.2f} {'east' if unit.east >= 0 else 'west'}"
    north_south = f"{abs(unit.north):.2f} {'north' if unit.north >= 0 else 'south'}"
    shown = _shown(", {} {:.2f}", health=unit.health, shield=unit.shield, cooldown=unit.cooldown)
    where = f"at distance {unit.distance:.2f}, {east_west} and {north_south} of you"
    near = f", in {'healing' if unit.side == 'ally' else 'attack'} range" * unit.in_range
    return f"{name} is {_a(unit.kind)} {where}{shown}{near}.\n"


def _compact_unit(unit: SeenUnit) -> str:
    name = f"{unit.side} {unit.number}"
    if not unit.seen:
        return f"{name}: {'in range, unknown' if unit.in_range else 'unseen'}\n"
    offsets = [(unit.east, "east", "west"), (unit.north, "north", "south")]
    where = [f"{abs(v):.1f} {pos if v > 0 else neg}" for v, pos, neg in offsets if abs(v) >= 0.05] or ["here"]
    shown = _shown(" {} {:.2f}", hp=unit.health, shield=unit.shield)
    return f"{name}: {unit.kind}{shown} {' '.join(where)}{' in range' * unit.in_range}\n"


def _shown(template: str, **values: float | None) -> str:
    return "".join(template.format(name, value) for name, value in values.items() if value is not None)


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
