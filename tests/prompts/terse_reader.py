"""A parser of terse prompts: it recovers facts and mask from the words with regular expressions."""

import re

NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
KIND = "marine|medivac|marauder|stalker|zealot|colossus|zergling|baneling|hydralisk|spine crawler|unknown unit"
COUNT = "|".join(NUMBERS[1:]) + "|[0-9]+"
CONDITION = r"(?: hp(?P<hp>\d+| unknown))?(?: shield(?P<shield>\d+))?"
ME = re.compile(rf"You (?P<kind>{KIND}){CONDITION}(?: range(?P<range>\d+))?(?: wait(?P<wait>\d+))?")
HEADING = re.compile(rf"(?:(?P<mixed>Allies|Enemies)|(?P<side>Ally|Enemy) (?P<kind>{KIND})):")
UNIT = re.compile(
    rf"(?P<number>\d+)(?:(?P<unseen> unseen)|(?: (?P<kind>{KIND}))?{CONDITION}"
    rf"(?: (?P<north>{COUNT}) (?P<north_south>north|south))?(?: (?P<east>{COUNT}) (?P<east_west>east|west))?"
    r"(?P<here> here)?)(?P<near> in range)?"
)
MOVES = ("move north", "move south", "move east", "move west")


def read(text, shields):
    """Parse the text after the prefix. ``shields`` has for both sides (allies, enemies) whether they have shields.

    Returns (me, {(side, number): unit}, available actions). A unit is "unseen", or a tuple of kind, health, shield,
    cells north and cells east. "in range" becomes an available action.
    """
    own, *lines = text.removesuffix("Best:").splitlines()
    match = ME.fullmatch(own)
    me = (match["kind"], *_condition(match, shields[0]), _number(match["range"]), int(match["wait"] or 0))
    units, actions, heading = {}, {"stop", *MOVES}, None
    for line in lines:
        if found := HEADING.fullmatch(line):
            heading = found
            continue
        if line.startswith("Blocked:"):
            words = line.removeprefix("Blocked:").split()
            actions -= {name for name in actions if name.removeprefix("move ") in words}
            continue
        if line.startswith("Also: "):
            actions |= set(line.removeprefix("Also: ").split(", "))
            continue
        match = UNIT.fullmatch(line)
        side = "ally" if heading[0].startswith("A") else "enemy"
        key = side, int(match["number"])
        assert key not in units
        units[key] = "unseen" if match["unseen"] else _unit(match, heading, shields[side == "enemy"])
        if match["near"]:
            actions.add(f"{'heal' if side == 'ally' else 'attack'} {side} {match['number']}")
    return me, units, actions


def lines_of(text, side):
    """Return the line about each unit of a side, in any style: {number: line}."""
    lines, under = {}, None
    for line in text.split("\n"):
        if heading := HEADING.fullmatch(line):
            under = "ally" if heading[0].startswith("A") else "enemy"
            continue
        numbered = r"(\d+) " if under == side else rf"{side} (\d+)\b"
        if named := re.match(numbered, line, re.IGNORECASE):
            lines[int(named[1])] = line
    return lines


def _unit(match, heading, shields):
    kind = match["kind"] or heading["kind"]
    assert bool(match["kind"]) == bool(heading["mixed"])
    assert bool(match["here"]) == (not match["north"] and not match["east"])
    north, east = _cells(match["north"], match["north_south"]), _cells(match["east"], match["east_west"])
    return (kind, *_condition(match, shields), north, east)


def _condition(match, shields):
    unknown = match["hp"] == " unknown"
    health = None if unknown else int(match["hp"] or 10)
    return health, int(match["shield"] or 10) if shields and not unknown else None


def _cells(count, way):
    if count is None:
        return 0
    cells = NUMBERS.index(count) if count in NUMBERS else int(count)
    return -cells if way in ("south", "west") else cells


def _number(text):
    return None if text is None else int(text)
