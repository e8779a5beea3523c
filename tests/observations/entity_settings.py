"""Settings of the ``entity`` section for tests, and the type and role features of entity tokens."""

from lolm_plugin.observations.units import NAMES

PUBLISHED = {
    "role_flag": False,
    "further_fields": [],
    "mask_absent": False,
    "heal_mode": "ally_tokens",
    "init_gain": None,
    "legacy_type_bug": False,
}
FULL = {**PUBLISHED, "role_flag": True, "further_fields": ["cooldown", "x", "y"]}
OWN, ALLY, ENEMY = [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]


def entity(**changes):
    return {**PUBLISHED, **changes}


def bits(name):
    return [float(name == other) for other in NAMES]
