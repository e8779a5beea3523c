"""SMAX (jaxmarl): StarCraft-like battles without StarCraft, with SMAC's actions, observations and results.

SMAX numbers actions and orders observations differently and reports no winner; the jitted step translates all of it.
jax is imported only when an environment is built: a process forked after its parent has used jax hangs.
"""

import contextlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial, wraps
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from lolm_plugin.envs.base import SingleEnv, Transition
from lolm_plugin.envs.smax_scenarios import UNIT_TYPES, SMAXScenario, scenario
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations.layout import N_BASE_ACTIONS

N_TYPES = len(UNIT_TYPES)
_SMAX_BASE_ACTIONS = (4, 4, 0, 2, 1, 3)  # no-op and stop are the same action in SMAX
INFO = ("battle_won", "dead_allies", "dead_enemies", "draw", "timeout")
REWARD_SCALE = 10.0  # SMAX pays 2 for a won battle, SMAC about 20
# SMAX kills a unit that touches a wall, and units push each other. So a move must end this far from the wall. Random
# play then stays about 2 away from every wall, and a team crowded into a corner hardly ever touches it.
WALL_MARGIN = 3.0
# Packages whose __init__ is skipped. It takes about two thirds of the time to a battle's first step (storm and jaxnav
# build arrays on import).
JAXMARL = ("jaxmarl", "jaxmarl.environments")


class UnitTypes(NamedTuple):
    """The rules of SMAX for each unit type: float32 ``[N_TYPES]`` each."""

    health: np.ndarray
    cooldown: np.ndarray  # seconds
    sight: np.ndarray
    range: np.ndarray
    stride: np.ndarray  # distance moved in one env step


class Units(NamedTuple):
    """Units of one battle, allies first: ``[units]`` each; ``position`` is ``[units, 2]`` in ``0..map_size``."""

    position: Any
    alive: Any
    health: Any
    cooldown: Any  # seconds; below 0: the weapon is ready
    kind: Any


class View(NamedTuple):
    """Observations ``[n_agents, obs_size]``, state ``[state_size]``, action masks ``[n_agents, n_actions]``."""

    obs: Any
    state: Any
    avail_actions: Any


def view(xp: ModuleType, units: Units, types: UnitTypes, n_agents: int, map_size: float) -> View:
    """Return observations, state and masks of one battle in SMAC's layout; ``xp`` is numpy or jax.numpy.

    Observation: 4 move bits; for each enemy (can target, distance, dx, dy, health, cooldown, type bits); for each
    other ally (visible, then the same); own health, cooldown, x, y, type bits. Distances are fractions of the
    observer's sight, x and y of the map, health and cooldown of the type's maximum. The features of a dead or invisible
    unit are zeros, and so is the whole observation of a dead agent.
    State: for each unit health, cooldown, x and y relative to the map's centre, and type bits; zeros if dead.
    """
    kind_bits = xp.eye(N_TYPES, dtype=xp.float32)[units.kind]
    health = (units.health / types.health[units.kind])[:, None]
    cooldown = xp.clip(units.cooldown / types.cooldown[units.kind], 0.0, 1.0)[:, None]
    own_kind, own_alive = units.kind[:n_agents, None], units.alive[:n_agents, None]

    delta = units.position[None] - units.position[:n_agents, None]
    distance = xp.linalg.norm(delta, axis=-1)
    sight = types.sight[own_kind]
    both_alive = own_alive & units.alive[None]
    visible = both_alive & (distance < sight)
    can_target = both_alive & (distance < types.range[own_kind])

    x, y = units.position[:n_agents, :1], units.position[:n_agents, 1:]
    reach = types.stride[own_kind] + WALL_MARGIN
    move = own_alive & xp.concatenate(
        [y + reach < map_size, y - reach > 0, x + reach < map_size, x - reach > 0], axis=-1
    )
    mask = xp.concatenate([~own_alive, own_alive, move, can_target[:, n_agents:]], axis=-1)

    of_unit = xp.concatenate([health, cooldown, kind_bits], axis=-1)
    of_unit = xp.broadcast_to(of_unit[None], (*visible.shape, 2 + N_TYPES))
    to_unit = xp.concatenate([distance[..., None], delta], axis=-1) / sight[..., None]
    sighting = xp.concatenate([to_unit, of_unit], axis=-1) * visible[..., None]
    enemies = xp.concatenate([can_target[..., None], sighting], axis=-1)[:, n_agents:]
    allies = xp.concatenate([visible[..., None], sighting], axis=-1)
    others = np.array([[j for j in range(n_agents) if j != i] for i in range(n_agents)], dtype=int)
    allies = allies[np.arange(n_agents)[:, None], others]

    position = units.position / map_size
    own = xp.concatenate([health, cooldown, position, kind_bits], axis=-1)[:n_agents] * own_alive
    state = xp.concatenate([health, cooldown, position - 0.5, kind_bits], axis=-1) * units.alive[:, None]
    obs = xp.concatenate([move, enemies.reshape(n_agents, -1), allies.reshape(n_agents, -1), own], axis=-1)
    return View(obs.astype(xp.float32), state.reshape(-1).astype(xp.float32), mask.astype(xp.int32))


class SMAXVectorEnv:
    """``n_envs`` copies of one SMAX battle against its heuristic enemy; see ``VectorEnv``.

    ``info`` has ``battle_won``, ``dead_allies``, ``dead_enemies``, ``draw`` (the last units of both teams died in the
    same step) and ``timeout``. A battle is lost if none of won, draw and timeout is 1.

    Args:
        map_name: a battle as in ``smax_scenarios``.
        n_envs: number of copies.
        time_limit: environment steps after which a battle ends; None: the map's default.

    Raises:
        ConfigError: the map, the limit or a key is invalid, or jaxmarl is not installed.
    """

    def __init__(self, map_name: str, n_envs: int, time_limit: int | None = None, **unknown: Any) -> None:
        if unknown:
            raise ConfigError(
                f"env_args.{next(iter(unknown))} is unknown to env=smax, whose env_args are map_name, "
                "seed and time_limit: remove it."
            )
        battle = scenario(map_name)
        if time_limit is not None and (not isinstance(time_limit, int) or time_limit < 1):
            raise ConfigError(
                f"env_args.time_limit={time_limit} is not a number of steps: set it to 1 or more, or to null "
                f"for the {battle.episode_limit} of {map_name}."
            )
        self.n_envs = n_envs
        self.n_agents = len(battle.ally_types)
        self.n_enemies = len(battle.enemy_types)
        self.n_actions = N_BASE_ACTIONS + self.n_enemies
        self.obs_size = 4 + (6 + N_TYPES) * (self.n_enemies + self.n_agents - 1) + 4 + N_TYPES
        self.state_size = (4 + N_TYPES) * (self.n_agents + self.n_enemies)
        self.episode_limit = time_limit or battle.episode_limit
        self._reset, self._step, self._to_host = _compile(battle, self.episode_limit)

    def reset(self, seeds: np.ndarray) -> None:
        """Start one episode per copy; see ``VectorEnv.reset``."""
        assert seeds.shape == (self.n_envs,), seeds.shape
        self._battles, shown = self._reset(seeds.astype(np.uint32))
        self.obs, self.state, self.avail_actions = self._to_host(shown)
        self._over = np.zeros(self.n_envs, dtype=bool)

    def step(self, actions: np.ndarray) -> Transition:
        """Step every copy; see ``VectorEnv.step``."""
        # SMAX silently ignores a masked action, which would hide a wrong mask.
        allowed = np.take_along_axis(self.avail_actions, np.asarray(actions)[..., None], axis=-1)
        assert allowed[~self._over].all(), "an action was taken that avail_actions rules out"
        self._battles, shown, outcome = self._step(self._battles, np.asarray(actions, dtype=np.int32))
        (self.obs, self.state, self.avail_actions), outcome = self._to_host((shown, outcome))
        reward, over, *values = outcome.T
        info = dict(zip(INFO, values, strict=True))
        truncated = info["timeout"] > 0
        self._over |= over > 0
        return Transition(reward, (over > 0) & ~truncated, truncated, info)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def make_env(
    map_name: str,
    seed: int | None = None,
    time_limit: int | None = None,
    common_reward: bool = True,
    reward_scalarisation: str = "sum",
    **unknown: Any,
) -> SingleEnv:
    """Build one SMAX battle for EPyMARL's runners. Agents share one reward, so ``reward_scalarisation`` has no effect.

    Raises:
        ConfigError: as ``SMAXVectorEnv``, and for ``common_reward=False``.
    """
    if not common_reward:
        raise ConfigError(
            "common_reward=False cannot be used with env=smax, whose agents share one reward: set common_reward=True."
        )
    return SingleEnv(SMAXVectorEnv(map_name, 1, time_limit, **unknown), seed or 0)


def _compile(battle: SMAXScenario, episode_limit: int) -> tuple[Callable, Callable, Callable]:
    """Compile ``reset(seeds) -> (battles, View)`` and ``step(battles, actions) -> (battles, View, outcome)``.

    The third function copies all their results to NumPy. An outcome is reward, terminated and ``INFO`` of every copy,
    float32 ``[n_envs, 2 + INFO]``. It is a single array because each array costs time to copy.
    """
    # A GPU build of jax would reserve most of the GPU's memory at its first call.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        import jax
        import jax.experimental

        # With JAX_ENABLE_X64, SMAX would mix 32 and 64 bits, which jax rejects.
        switch: Any = jax if hasattr(jax, "enable_x64") else jax.experimental
        in_32_bits = partial(switch.enable_x64, False)
        with in_32_bits():
            reset, step = _rules(battle, episode_limit, *load_jaxmarl())
    except ImportError as error:
        raise ConfigError(
            f"env=smax needs jaxmarl, which cannot be imported ({error}): run pip install -e "
            "'.[smax]' or set another --env-config."
        ) from error

    def over_copies(one_battle: Callable) -> Callable:
        # vmap would be slightly faster, but its rounding depends on the number of copies.
        compiled = jax.jit(lambda *batched: jax.lax.map(lambda one: one_battle(*one), batched))

        @wraps(compiled)
        def stepped(*batched: Any) -> Any:
            with in_32_bits():
                return compiled(*batched)

        return stepped

    return over_copies(reset), over_copies(step), jax.device_get


def _rules(battle: SMAXScenario, episode_limit: int, game_class: Any, scenario_class: Any) -> tuple[Callable, Callable]:
    """Return ``reset(seed) -> (battle, View)`` and ``step(battle, actions) -> (battle, View, outcome)`` of one copy."""
    import jax
    import jax.numpy as jnp

    n_agents = len(battle.ally_types)
    kinds = [UNIT_TYPES.index(unit) for unit in battle.ally_types + battle.enemy_types]
    game = game_class(
        scenario=scenario_class(
            unit_types=jnp.array(kinds, dtype=jnp.uint8),
            num_allies=n_agents,
            num_enemies=len(battle.enemy_types),
            smacv2_position_generation=battle.random_units,
            smacv2_unit_type_generation=battle.random_units,
        ),
        # SMAX checks its step counter before it increments it, so it would end one step late.
        max_steps=episode_limit - 1,
    )
    types = UnitTypes(
        health=game.unit_type_health,
        cooldown=game.unit_type_weapon_cooldowns,
        sight=game.unit_type_sight_ranges,
        range=game.unit_type_attack_ranges,
        stride=game.unit_type_velocities * game.time_per_step * game.world_steps_per_env_step,
    )
    n_attacks = len(battle.enemy_types)
    smax_action = jnp.array([*_SMAX_BASE_ACTIONS, *range(5, 5 + n_attacks)], dtype=jnp.int32)

    def look(units: Any) -> View:
        standing = Units(
            units.unit_positions,
            units.unit_alive,
            units.unit_health,
            units.unit_weapon_cooldowns,
            units.unit_types,
        )
        return view(jnp, standing, types, n_agents, game.map_width)

    def reset(seed: Any) -> tuple[Any, View]:
        key = jax.random.PRNGKey(seed)
        # Step t = 1, 2, ... draws from fold_in(key, t), so an episode depends only on its seed.
        _, outer = game.reset(jax.random.fold_in(key, 0))
        # Initial states have weakly typed numbers. With them the first two steps would each be compiled.
        outer = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, jnp.asarray(leaf).dtype), outer)
        return (key, outer), look(outer.state)

    def step(key_and_outer: Any, actions: Any) -> tuple[Any, View, Any]:
        key, before = key_and_outer
        orders = smax_action[actions]
        step_key = jax.random.fold_in(key, before.state.step + 1)
        # Not game.step: at the end of an episode it returns the first state of the next one.
        _, after, rewards, dones, _ = game.step_env(
            step_key, before, {agent: orders[i] for i, agent in enumerate(game.agents)}
        )
        after = jax.tree.map(lambda new, old: jax.lax.convert_element_type(new, old.dtype), after, before)
        allies, enemies = after.state.unit_alive[:n_agents], after.state.unit_alive[n_agents:]
        info = {
            "battle_won": allies.any() & ~enemies.any(),
            "dead_allies": (~allies).sum(),
            "dead_enemies": (~enemies).sum(),
            "draw": ~allies.any() & ~enemies.any(),
            "timeout": dones["__all__"] & allies.any() & enemies.any(),
        }
        outcome = [rewards["ally_0"] * REWARD_SCALE, dones["__all__"], *(info[name] for name in INFO)]
        return (key, after), look(after.state), jnp.stack([value.astype(jnp.float32) for value in outcome])

    return reset, step


def load_jaxmarl() -> tuple[Any, Any]:
    """Import only SMAX; return ``HeuristicEnemySMAX`` and ``Scenario``. Raises ImportError without jaxmarl."""
    with _silenced(), _without_init(JAXMARL):
        from jaxmarl.environments.smax.heuristic_enemy_smax_env import HeuristicEnemySMAX
        from jaxmarl.environments.smax.smax_env import Scenario
    return HeuristicEnemySMAX, Scenario


@contextlib.contextmanager
def _without_init(packages: tuple[str, ...]) -> Iterator[None]:
    """Replace packages by empty stand-ins, so that their modules can be imported without their ``__init__``."""
    stand_ins = []
    try:
        for name in packages:
            if name in sys.modules:
                continue
            spec = importlib.util.find_spec(name)
            if spec is None or spec.submodule_search_locations is None:
                raise ImportError(f"No module named '{name}'")
            module = ModuleType(name)
            module.__path__ = list(spec.submodule_search_locations)
            module.__spec__ = spec
            sys.modules[name] = module
            stand_ins.append(name)
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Suppress jaxmarl's import messages, and undo its redirection of stdout and stderr to the terminal."""
    system: Any = sys  # Any: sys.__stdout__ is declared final
    streams = system.stdout, system.stderr, system.__stdout__
    system.stdout = system.__stdout__ = io.StringIO()
    try:
        yield
    finally:
        system.stdout, system.stderr, system.__stdout__ = streams
