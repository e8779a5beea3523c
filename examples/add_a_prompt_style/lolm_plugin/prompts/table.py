"""Prompt style "table": one row per unit, with few words, for models that read code better than prose."""

from lolm_plugin.prompts.scene import AgentBatch, UnitBatch
from lolm_plugin.prompts.style import Listing, PromptStyle
from lolm_plugin.prompts.template import Sentence, if_present, kinds, template, where


class TableStyle(PromptStyle):
    """One line per unit: side and number, kind, health, shield, cooldown, cells east, cells north, in range."""

    short = True
    instruction = "unit | kind | health | shield | cooldown | cells east | cells north\n"
    goal = "Goal: kill all enemies, heal allies, stay alive.\n"
    actions = Listing("actions | ", " | ", "\n")
    cue = "action |"

    def me(self, me: AgentBatch) -> Sentence:
        """Return the row of the agent itself: at 0, 0, with its attack or heal range."""
        reach = if_present(" | range {attack_range:.0f}", me)
        return template(
            "me | {kind}{numbers} | 0 | 0{reach}\n", kind=kinds(me.kind), numbers=_condition(me), reach=reach
        )

    def unit(self, unit: UnitBatch) -> Sentence:
        """Return the row of another unit. A unit that is listed but not seen has no numbers."""
        numbers = _condition(unit) + template(" | {east:.1f} | {north:.1f}", unit)
        seen = template(" | {kind}{numbers}", kind=kinds(unit.kind), numbers=numbers)
        reach = template(" | in range").where(unit.in_range)
        return (
            template("{side} {number}", unit) + where(unit.seen, seen, template(" | not seen")) + reach + template("\n")
        )


def _condition(unit: AgentBatch | UnitBatch) -> Sentence:
    shown = (" | {health:.2f}", " | {shield:.2f}", " | {cooldown:.2f}")
    return sum((if_present(text, unit) for text in shown), Sentence())
