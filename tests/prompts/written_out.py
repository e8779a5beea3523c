"""The sentences of both styles as f-strings, one scene at a time: what a plain port would do."""


def paper(scene):
    me = scene.me
    where = "" if me.x is None else f", at {me.x:.2f} of the map's width and {me.y:.2f} of its height"
    shown = _shown(", {} {:.2f}", health=me.health, shield=me.shield, cooldown=me.cooldown)
    return (
        f"Current state:\nYou are ally {me.number}, {_a(me.kind)}{shown}{where}.\n",
        "".join(map(_paper_unit, scene.allies)) or "You see no ally.\n",
        "".join(map(_paper_unit, scene.enemies)) or "You see no enemy.\n",
        f"Available actions: {', '.join(scene.actions)}.\n",
        "The best action is:",
    )


def _paper_unit(unit):
    name = f"{unit.side.capitalize()} {unit.number}"
    if unit.in_range and not unit.seen:
        return f"{name} is in range, details unknown.\n"
    if not unit.seen:
        return f"{name} is dead or out of sight, distance 0.00, 0.00 east and 0.00 north of you, health 0.00.\n"
    east_west = f"{abs(unit.east):.2f} {'east' if unit.east >= 0 else 'west'}"
    north_south = f"{abs(unit.north):.2f} {'north' if unit.north >= 0 else 'south'}"
    shown = _shown(", {} {:.2f}", health=unit.health, shield=unit.shield, cooldown=unit.cooldown)
    return f"{name} is {_a(unit.kind)} at distance {unit.distance:.2f}, {east_west} and {north_south} of you{shown}.\n"


def compact(scene):
    me = scene.me
    short = {"no-op": "none", **{f"move {way}": way for way in ("north", "south", "east", "west")}}
    actions = [short.get(name, name.replace(" enemy ", " ").replace(" ally ", " ")) for name in scene.actions]
    return (
        f"You: {me.kind}{_shown(' {} {:.2f}', hp=me.health, shield=me.shield, wait=me.cooldown or None)}\n",
        "".join(map(_compact_unit, scene.allies)),
        "".join(map(_compact_unit, scene.enemies)),
        f"Actions: {' '.join(actions)}\n",
        "Best:",
    )


def _compact_unit(unit):
    name = f"{unit.side} {unit.number}"
    if not unit.seen:
        return f"{name}: {'in range, unknown' if unit.in_range else 'none'}\n"
    offsets = [(unit.east, "east", "west"), (unit.north, "north", "south")]
    where = [f"{abs(v):.1f} {pos if v > 0 else neg}" for v, pos, neg in offsets if abs(v) >= 0.05] or ["here"]
    return f"{name}: {unit.kind}{_shown(' {} {:.2f}', hp=unit.health, shield=unit.shield)} {' '.join(where)}\n"


def _shown(template, **values):
    return "".join(template.format(name, value) for name, value in values.items() if value is not None)


def _a(kind):
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


WORDS = {"paper": paper, "compact": compact}
