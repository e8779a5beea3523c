"""The paper style: full sentences for instruction, goal, current state and actions (paper, section 4.2)."""

from lolm_plugin.prompts.scene import AgentBatch, UnitBatch
from lolm_plugin.prompts.style import Listing, PromptStyle
from lolm_plugin.prompts.template import Sentence, choose, if_present, kinds, template, where


class PaperStyle(PromptStyle):
    """The paper's four parts with numbers to two decimals, and a cue for the answer."""

    instruction = (
        "Instruction: You control one unit of a team in a StarCraft II battle. Read the current state and "
        "choose exactly one of the available actions. Distances are in map cells; health, shield and cooldown "
        "are fractions of their maximum.\n"
    )
    goal = (
        "Goal: In the long term your team must destroy every enemy unit. In the short term stay alive, protect "
        "your allies and finish off weakened enemies together; if you can heal, keep wounded allies alive.\n"
    )
    none_seen = "You see no {side}.\n"
    actions = Listing("Available actions: ", ", ", ".\n")
    cue = "The best action is:"

    def me(self, me: AgentBatch) -> Sentence:
        """Return number, kind, condition, range and position."""
        return template(
            "Current state:\nYou are ally {number}, {a_kind}{condition}{attack}{heal}{position}.\n",
            number=me.number,
            a_kind=kinds(me.kind, articles=True),
            condition=_condition(me),
            attack=if_present(", attack range {attack_range:.0f}", me).where(~me.heals),
            heal=if_present(", healing range {attack_range:.0f}", me).where(me.heals),
            position=if_present(", at {x:.2f} of the map's width and {y:.2f} of its height", me),
        )

    def unit(self, unit: UnitBatch) -> Sentence:
        """Return one sentence with numbers to two decimals."""
        name = template("{side} {number}", side=unit.side.capitalize(), number=unit.number)
        seen = template(
            " is {a_kind} at distance {distance:.2f}, {east:.2f} {east_west} and {north:.2f} {north_south} of you"
            "{condition}{in_range}.\n",
            a_kind=kinds(unit.kind, articles=True),
            distance=unit.distance,
            east=abs(unit.east),
            east_west=choose(unit.east >= 0, "east", "west"),
            north=abs(unit.north),
            north_south=choose(unit.north >= 0, "north", "south"),
            condition=_condition(unit),
            in_range=template(f", in {'healing' if unit.side == 'ally' else 'attack'} range").where(unit.in_range),
        )
        hidden, gone = template(" is in range, details unknown.\n"), template(" is dead or out of sight.\n")
        return name + where(unit.seen, seen, where(unit.in_range, hidden, gone))


def _condition(unit: AgentBatch | UnitBatch) -> Sentence:
    shown = (", health {health:.2f}", ", shield {shield:.2f}", ", cooldown {cooldown:.2f}")
    return sum((if_present(text, unit) for text in shown), Sentence())
