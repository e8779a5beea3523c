"""A third of the tokens: one short line a unit, for machines without a GPU."""

import re

from lolm_plugin.prompts.scene import Scene, SeenUnit
from lolm_plugin.prompts.template import PromptParts

_SHORT_ACTION = {
    "no-op": "none",
    "move north": "north",
    "move south": "south",
    "move east": "east",
    "move west": "west",
}
_SIDE = re.compile(" (enemy|ally) ")  # of a target: who attacks does so to enemies, who heals to allies


class CompactStyle:
    """Names, health and offsets to one decimal (shares of health to two), nothing else."""

    instruction = "Battle. Pick one action for your unit.\n"
    goal = "Goal: kill all enemies, weakest first, and stay alive.\n"

    def describe(self, scene: Scene) -> PromptParts:
        """One short line a unit."""
        me = scene.me
        actions = [_SHORT_ACTION.get(name) or _SIDE.sub(" ", name) for name in scene.actions]
        return PromptParts(
            me=f"You: {me.kind}{_condition(me.health, me.shield, me.cooldown)}\n",
            allies="".join(map(_line, scene.allies)),
            enemies="".join(map(_line, scene.enemies)),
            actions=f"Actions: {' '.join(actions)}\n",
            cue="Best:",
        )


def _line(unit: SeenUnit) -> str:
    name = f"{unit.side} {unit.number}"
    if unit.in_range and not unit.seen:
        return f"{name}: in range, unknown\n"
    if not unit.seen:
        return f"{name}: none\n"
    offsets = [(unit.east, "east", "west"), (unit.north, "north", "south")]
    # An offset that would print as 0.0 says nothing; a unit at the very same spot still needs a place.
    where = [f"{abs(v):.1f} {pos if v > 0 else neg}" for v, pos, neg in offsets if abs(v) >= 0.05] or ["here"]
    return f"{name}: {unit.kind}{_condition(unit.health, unit.shield, None)} {' '.join(where)}\n"


def _condition(health: float | None, shield: float | None, cooldown: float | None) -> str:
    shown = (("hp", health), ("shield", shield), ("wait", cooldown or None))
    return "".join(f" {name} {value:.2f}" for name, value in shown if value is not None)
