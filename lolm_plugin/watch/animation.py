"""An animation of one battle, for a talk or a readme: a GIF, drawn without a browser."""

from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lolm_plugin.watch.record import Agent, Battle, Record, text_of

WIDTH, HEIGHT, SIDE = 760, 400, 330  # pixels; SIDE is the panel with an agent's probabilities
MARGIN, RADIUS = 40, 11
FRAME, LAST_FRAME = 260, 1800  # milliseconds
BETWEEN = 2  # frames per step; fewer jump, more make larger files
MOST_STEPS = 150
BACK, INK, GREY, LINE = "#101418", "#e8eaed", "#9aa0a6", "#2a3038"
COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#5d543f")  # Okabe and Ito's: allies, enemies, things; the ground
GROUND = 3  # the side of what fills a cell
LONGEST = 44  # letters of a line in the panel


def write(record: Record, number: int, path: Path) -> None:
    """Write battle ``number`` of a record as a GIF. The panel follows the agent with the surest choice.

    Raises:
        OSError: the file cannot be written.
    """
    battle = record.battles[number]
    frames = [_frame(record, battle, t, part / BETWEEN) for t, part in _times(battle)]
    # One palette for all frames: pixels that do not change are then stored once.
    palette = frames[len(frames) // 2].quantize(64)
    images = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [FRAME // BETWEEN] * (len(images) - 1) + [LAST_FRAME]
    images[0].save(path, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True)


def _times(battle: Battle) -> Iterator[tuple[int, int]]:
    for t in range(min(battle.length, MOST_STEPS)):
        yield from ((t, part) for part in range(BETWEEN))
    yield min(battle.length, MOST_STEPS), 0


def _frame(record: Record, battle: Battle, t: int, part: float) -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), BACK)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(13)
    place = _scale(battle)
    step = min(t, battle.length - 1)
    half = 0.4 * (place(1, 0)[0] - place(0, 0)[0])  # of a cell
    for unit in (i for i, side in enumerate(battle.units.side) if side == GROUND):
        if at := _at(battle, unit, t, part, place):
            draw.rectangle([at[0] - half, at[1] - half, at[0] + half, at[1] + half], fill=COLOURS[GROUND])
    for _, *shot in (each for each in battle.shots if each[0] == t):
        ends = [_at(battle, unit, t, part, place) for unit in shot]
        if ends[0] and ends[1]:
            draw.line([ends[0], ends[1]], fill=COLOURS[1])
    for agent, one in enumerate(battle.agents):
        target = one.action[step] - record.n_base_actions
        if t < battle.length and target >= 0 and one.targets[target] >= 0:
            ends = [_at(battle, unit, t, part, place) for unit in (agent, one.targets[target])]
            if ends[0] and ends[1]:
                healed = battle.units.side[one.targets[target]] == 0
                draw.line([ends[0], ends[1]], fill=COLOURS[2] if healed else COLOURS[0], width=2)
    for unit in range(len(battle.units.label)):
        if battle.units.side[unit] != GROUND and (at := _at(battle, unit, t, part, place)):
            _unit(draw, battle, unit, t, at)
    title = f"{record.algorithm} on {record.map}"
    draw.text((14, 10), title[:60], fill=INK, font=font)
    draw.text((14, HEIGHT - 24), f"step {t} of {battle.length}", fill=GREY, font=font)
    if t == battle.length and battle.won is not None:
        draw.text((120, HEIGHT - 24), "won" if battle.won else "lost", fill=INK, font=font)
    _panel(draw, font, record, battle, step)
    return image


def _panel(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    record: Record,
    battle: Battle,
    t: int,
) -> None:
    """Draw the most probable actions of the agent that is surest of its choice, and its sentence about the target."""
    deciding = [agent for agent in range(len(battle.agents)) if battle.agents[agent].policy[t]]
    if not deciding:
        return
    agent = max(deciding, key=lambda one: (max(battle.agents[one].policy[t] or [0.0]), -one))
    one, x, y = battle.agents[agent], WIDTH - SIDE + 14, 12
    draw.line([(WIDTH - SIDE, 0), (WIDTH - SIDE, HEIGHT)], fill=LINE)
    draw.text((x, y), f"{battle.units.label[agent]} ({battle.units.kind[agent]})", fill=COLOURS[0], font=font)
    y += 24
    for line in _sentences(record, battle, one, t)[:6]:
        draw.text((x, y), line[:LONGEST], fill=GREY, font=font)
        y += 17
    y += 8
    mask = record.masks[one.available[t]]
    actions = [i for i, offered in enumerate(mask) if offered == "1"]
    shares = sorted(zip(one.policy[t] or [], actions, strict=True), reverse=True)[:9]
    for share, action in shares:
        colour = COLOURS[1] if action == one.action[t] else COLOURS[0]
        draw.text((x, y), one.names[action][:22], fill=INK, font=font)
        draw.rectangle([x + 150, y + 3, x + 151 + 110 * share, y + 13], fill=colour)
        draw.text((x + 268, y), f"{share:.0%}", fill=GREY, font=font)
        y += 20


def _sentences(record: Record, battle: Battle, agent: Agent, t: int) -> list[str]:
    prompt = agent.prompt[t] if agent.prompt else None
    if not prompt:
        return []
    target = agent.action[t] - record.n_base_actions
    about = agent.targets[target] if target >= 0 else -1
    chosen = [text for text, unit in text_of(record, prompt) if unit == about and unit >= 0]
    text = " ".join((chosen or [text_of(record, prompt)[0][0]])[0].split())
    return [text[begin : begin + LONGEST] for begin in range(0, len(text), LONGEST)]


def _unit(draw: ImageDraw.ImageDraw, battle: Battle, unit: int, t: int, at: tuple[float, float]) -> None:
    (x, y), units, colour = at, battle.units, COLOURS[battle.units.side[unit]]
    if units.side[unit] == 1:
        draw.regular_polygon((x, y, RADIUS), 4, rotation=45, fill=colour)
    elif units.side[unit] == 2:
        draw.regular_polygon((x, y, RADIUS), 3, fill=colour)
    else:
        draw.ellipse([x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS], fill=colour)
    for column, down, bar in ((units.health, 15, "#F0E442"), (units.shield, 19, "#CC79A7")):
        if column and (share := column[unit][t]) is not None:
            draw.rectangle([x - RADIUS, y - down - 2, x + RADIUS, y - down], fill=LINE)
            draw.rectangle([x - RADIUS, y - down - 2, x - RADIUS + 2 * RADIUS * min(1, share), y - down], fill=bar)


def _at(
    battle: Battle, unit: int, t: int, part: float, place: Callable[[float, float], tuple[float, float]]
) -> tuple[float, float] | None:
    """Return the position of a unit in pixels, ``part`` of the way to its next position."""
    ends = [(battle.units.x[unit][when], battle.units.y[unit][when]) for when in (t, min(t + 1, battle.length))]
    (x, y), (next_x, next_y) = ends
    if x is None or y is None:
        return None
    if next_x is None or next_y is None:
        next_x, next_y = x, y
    return place(x + (next_x - x) * part, y + (next_y - y) * part)


def _scale(battle: Battle) -> Callable[[float, float], tuple[float, float]]:
    """Return the function from positions to pixels of the field; y grows upward in battles."""
    xs = [value for column in battle.units.x for value in column if value is not None] or [0.0]
    ys = [value for column in battle.units.y for value in column if value is not None] or [0.0]
    wide, high = WIDTH - SIDE - 2 * MARGIN, HEIGHT - 2 * MARGIN
    scale = min(wide / max(max(xs) - min(xs), 1e-3), high / max(max(ys) - min(ys), 1e-3))
    middle = ((max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2)
    return lambda x, y: (
        MARGIN + wide / 2 + (x - middle[0]) * scale,
        MARGIN + high / 2 - (y - middle[1]) * scale,
    )
