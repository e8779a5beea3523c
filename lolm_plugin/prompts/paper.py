"""Full sentences: instruction, goal, current state, available actions (paper, section 4.2)."""

from lolm_plugin.prompts.scene import Scene, SeenUnit
from lolm_plugin.prompts.template import PromptParts


class PaperStyle:
    """The paper's four parts with numbers to two decimals, and a cue to answer after."""

    instruction = (
        "Instruction: You control one unit of a team in a StarCraft II battle. Read the current state and "
        "choose exactly one of the available actions. Distances are in map cells; health, shield and cooldown "
        "are fractions of their maximum.\n"
    )
    goal = (
        "Goal: In the long term your team must destroy every enemy unit. In the short term stay alive, protect "
        "your allies and finish off weakened enemies together.\n"
    )

    def describe(self, scene: Scene) -> PromptParts:
        """Every part in full sentences, numbers to two decimals."""
        me = scene.me
        where = "" if me.x is None else f", at {me.x:.2f} of the map's width and {me.y:.2f} of its height"
        condition = _condition(me.health, me.shield, me.cooldown)
        return PromptParts(
            me=f"Current state:\nYou are ally {me.number}, {_a(me.kind)}{condition}{where}.\n",
            allies="".join(map(_sentence, scene.allies)) or "You see no ally.\n",
            enemies="".join(map(_sentence, scene.enemies)) or "You see no enemy.\n",
            actions=f"Available actions: {', '.join(scene.actions)}.\n",
            cue="The best action is:",
        )


def _sentence(unit: SeenUnit) -> str:
    name = f"{unit.side.capitalize()} {unit.number}"
    if unit.in_range and not unit.seen:
        return f"{name} is in range, details unknown.\n"
    if not unit.seen:
        return f"{name} is dead or out of sight, distance 0.00, 0.00 east and 0.00 north of you, health 0.00.\n"
    east_west = f"{abs(unit.east):.2f} {'east' if unit.east >= 0 else 'west'}"
    north_south = f"{abs(unit.north):.2f} {'north' if unit.north >= 0 else 'south'}"
    condition = _condition(unit.health, unit.shield, unit.cooldown)
    return (
        f"{name} is {_a(unit.kind)} at distance {unit.distance:.2f}, {east_west} and {north_south} of you{condition}.\n"
    )


def _condition(health: float | None, shield: float | None, cooldown: float | None) -> str:
    shown = {"health": health, "shield": shield, "cooldown": cooldown}
    return "".join(f", {name} {value:.2f}" for name, value in shown.items() if value is not None)


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
