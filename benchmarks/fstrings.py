"""The plain port's prompts in words: one f-string a unit, filled in one after the other.

The words are those of ``prompt.style``, so that both sides read the same; how they are put together is not.
"""

from collections.abc import Callable

from lolm_plugin.prompts.scene import Scene, SeenUnit
from lolm_plugin.prompts.template import PromptStyle

SHORT_ACTIONS = {"no-op": "none", **{f"move {way}": way for way in ("north", "south", "east", "west")}}


def describer(name: str, style: PromptStyle) -> Callable[[Scene], str]:
    """From a scene to a prompt's own part; a style of which there is no copy here describes for itself."""
    return {"paper": paper, "compact": compact}.get(name) or (lambda scene: style.describe(scene).text)


def paper(scene: Scene) -> str:
    """Full sentences."""
    me = scene.me
    place = "" if me.x is None else f", at {me.x:.2f} of the map's width and {me.y:.2f} of its height"
    allies = "".join(_sentence(unit) for unit in scene.allies) or "You see no ally.\n"
    enemies = "".join(_sentence(unit) for unit in scene.enemies) or "You see no enemy.\n"
    condition = _shares(health=me.health, shield=me.shield, cooldown=me.cooldown)
    return (
        f"Current state:\nYou are ally {me.number}, {_a(me.kind)}{condition}{place}.\n{allies}{enemies}"
        f"Available actions: {', '.join(scene.actions)}.\nThe best action is:"
    )


def compact(scene: Scene) -> str:
    """One short line a unit."""
    me = scene.me
    wait = f" wait {me.cooldown:.2f}" if me.cooldown else ""
    units = "".join(_line(unit) for unit in (*scene.allies, *scene.enemies))
    actions = " ".join(
        SHORT_ACTIONS.get(action) or action.replace(" enemy ", " ").replace(" ally ", " ") for action in scene.actions
    )
    return f"You: {me.kind}{_short(me.health, me.shield)}{wait}\n{units}Actions: {actions}\nBest:"


def _sentence(unit: SeenUnit) -> str:
    name = f"{unit.side.capitalize()} {unit.number}"
    if unit.in_range and not unit.seen:
        return f"{name} is in range, details unknown.\n"
    if not unit.seen:
        return f"{name} is dead or out of sight, distance 0.00, 0.00 east and 0.00 north of you, health 0.00.\n"
    east_west = f"{abs(unit.east):.2f} {'east' if unit.east >= 0 else 'west'}"
    north_south = f"{abs(unit.north):.2f} {'north' if unit.north >= 0 else 'south'}"
    condition = _shares(health=unit.health, shield=unit.shield, cooldown=unit.cooldown)
    return (
        f"{name} is {_a(unit.kind)} at distance {unit.distance:.2f}, {east_west} and {north_south} of you{condition}.\n"
    )


def _line(unit: SeenUnit) -> str:
    name = f"{unit.side} {unit.number}"
    if unit.in_range and not unit.seen:
        return f"{name}: in range, unknown\n"
    if not unit.seen:
        return f"{name}: none\n"
    east = f" {abs(unit.east):.1f} {'east' if unit.east > 0 else 'west'}" if abs(unit.east) >= 0.05 else ""
    north = f" {abs(unit.north):.1f} {'north' if unit.north > 0 else 'south'}" if abs(unit.north) >= 0.05 else ""
    return f"{name}: {unit.kind}{_short(unit.health, unit.shield)}{east}{north}{'' if east or north else ' here'}\n"


def _shares(**values: float | None) -> str:
    return "".join(f", {name} {value:.2f}" for name, value in values.items() if value is not None)


def _short(health: float | None, shield: float | None) -> str:
    return "".join(f" {name} {value:.2f}" for name, value in (("hp", health), ("shield", shield)) if value is not None)


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
