"""Units as rows of a table: fewest words, for models that read code better than prose."""

from lolm_plugin.prompts.columns import SelfColumns, UnitColumns
from lolm_plugin.prompts.phrases import Phrase, either, kinds, optional, phrase
from lolm_plugin.prompts.template import Listing, PromptStyle


class TableStyle(PromptStyle):
    """One line a unit: side and number, kind, health, shield, cooldown, cells east, cells north, in range."""

    short = True
    instruction = "unit | kind | health | shield | cooldown | cells east | cells north\n"
    goal = "Goal: kill all enemies, heal allies, stay alive.\n"
    actions = Listing("actions | ", " | ", "\n")
    cue = "action |"

    def me(self, me: SelfColumns) -> Phrase:
        """The first row: oneself, at 0, 0, and how far one attacks or heals."""
        reach = optional(" | range {attack_range:.0f}", me)
        return phrase("me | {kind}{numbers} | 0 | 0{reach}\n", kind=kinds(me.kind), numbers=_condition(me), reach=reach)

    def unit(self, unit: UnitColumns) -> Phrase:
        """A row; a unit that is named without being seen has no numbers."""
        numbers = _condition(unit) + phrase(" | {east:.1f} | {north:.1f}", unit)
        seen = phrase(" | {kind}{numbers}", kind=kinds(unit.kind), numbers=numbers)
        reach = phrase(" | in range").where(unit.in_range)
        return phrase("{side} {number}", unit) + either(unit.seen, seen, phrase(" | not seen")) + reach + phrase("\n")


def _condition(unit: SelfColumns | UnitColumns) -> Phrase:
    shown = (" | {health:.2f}", " | {shield:.2f}", " | {cooldown:.2f}")
    return sum((optional(template, unit) for template in shown), Phrase())
