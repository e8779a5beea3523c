"""The section of ``lolm doctor --config ... --env-config ...``: what a run would need, before anything is launched."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from lolm_plugin.configuration import config_check
from lolm_plugin.doctor import estimate, language_model, machine, memory, networks, run_memory, run_time, words
from lolm_plugin.doctor.finding import Finding
from lolm_plugin.doctor.plan import Plan, configuration, plan
from lolm_plugin.observations.battle import BattleLayout


def section(arguments: Sequence[str]) -> tuple[str, list[Finding]]:
    """Title and lines for a command line without the doctor's own options; ConfigError as a run would raise it."""
    config = configuration(arguments)
    run = plan(config)
    title = f"Estimate of {config['name']} on {config['env']} {run.layouts.observation.map_name}; nothing is launched"
    device = "cuda" if config["use_cuda"] and torch.cuda.is_available() else "cpu"
    lines = _language_model if config["mac"] == config_check.LLM_MAC else _network
    return title, list(lines(config, run, device))


def _language_model(config: Mapping[str, Any], run: Plan, device: str) -> Iterator[Finding]:
    language_model.require_at_hand(config["llm"]["model"])
    reading = language_model.reading(config, run, device)
    model, lengths, critic = reading.model, reading.lengths, networks.build_critic(run.layouts, config)
    what = f"LoRA on {model.adapted} of {words.several(model.layers, 'layer')}" if model.adapter else "every weight"
    yield Finding(
        True,
        "policy",
        f"{words.count(model.all)} parameters, of which {words.count(model.trained)} learn: {what}, and the head",
    )
    yield Finding(True, "critic", f"{words.count(networks.count(critic))} parameters")
    yield from _size(config, run)
    yield Finding(
        True,
        "prompts",
        f"{words.several(lengths.prefix, 'token')} that all share, then {lengths.mean:.0f} on average and at most "
        f"{lengths.longest}, counted on made-up observations, which show somewhat more than battles do",
    )
    shares = run_memory.of_language_model(config, run, reading, critic, device)
    yield from _memory(shares, device, run_memory.less_for_language_model(config, reading, device))
    yield _time(run_time.seconds(config, run, reading, device))


def _network(config: Mapping[str, Any], run: Plan, device: str) -> Iterator[Finding]:
    policy, critic = networks.build_policy(run.layouts, config), networks.build_critic(run.layouts, config)
    yield Finding(True, "policy", f"{words.count(networks.count(policy))} parameters, which all learn")
    yield Finding(True, "critic", f"{words.count(networks.count(critic))} parameters")
    yield from _size(config, run)
    shares = run_memory.of_network(config, run, policy, critic)
    yield from _memory(shares, device, run_memory.less_for_network(config))
    yield Finding(True, "time", "not estimated, as with a small network most of it is the environment's")


def _size(config: Mapping[str, Any], run: Plan) -> Iterator[Finding]:
    layout = run.layouts.observation
    agents = words.several(layout.n_agents, "agent")
    if not isinstance(layout, BattleLayout):
        teams = f"{agents} in {layout.task}"
    else:
        teams = f"{agents} against {words.several(layout.n_enemies, 'enemy', 'enemies')}"
    limit = words.several(run.limit, "step") if run.limit_known else "as many steps as the environment says"
    falls = isinstance(layout, BattleLayout)
    typical = f"{words.several(run.length, 'step')}{f' (half of {run.limit})' if falls else ''}"
    decisions = f"{run.decisions:g} decision{'' if run.decisions == 1 else 's'} a step"
    taken = f"taken as typical: {typical} and {decisions}{' (agents fall one by one)' if falls else ''}"
    yield Finding(True, "battles" if falls else "episodes", f"{teams} for up to {limit}; {taken}")
    updates = f"about {words.several(run.updates, 'update')} of {words.several(run.battles, 'battle')}"
    tests = f"{words.several(run.tests, 'test')} of {words.several(run.test_battles, 'battle')}"
    yield Finding(True, "run", f"{words.several(config['t_max'], 'environment step')}, {updates}, {tests}")


def _memory(shares: Sequence[run_memory.Share], device: str, less: Sequence[str]) -> Iterator[Finding]:
    for share in shares:
        yield Finding(True, f"memory for {share.what}", f"{words.memory(share.size)}, {share.how}")
    total = memory.PROGRAM + sum(share.size for share in shares)
    where = "on the GPU" if device == "cuda" else "in main memory"
    needed = f"{words.memory(total)} with {words.memory(memory.PROGRAM)} for the libraries, without environments"
    room = machine.room(device)
    if room is None:
        yield Finding(True, "memory in all", f"{needed}; how much is free {where} the system does not tell")
        return
    free = f"{words.memory(room.free)} of {words.memory(room.total)} are free {where}"
    fits = total <= room.free
    advice = "" if fits else f", which is too little: {', then '.join(less)}"
    yield Finding(fits, "memory in all", f"{needed}; {free}{advice}")


def _time(found: run_time.Seconds) -> Finding:
    total, learning = words.duration(found.play + found.learn), words.duration(found.learn)
    busy = ", while other work takes the cores" if found.busy else ""
    rate = f"{found.rate / 1e9:,.0f} GFLOP/s of matrix products, measured now on {found.where}{busy}"
    if found.least:
        text = f"at least {total}, at {rate}; so narrow a model takes several times that, and the environment its own"
    else:
        share = f"products taken to be {estimate.PRODUCTS:.0%} of it"
        error = "an estimate within a factor of about 2, without the environment's own time"
        text = f"about {total}, of which {learning} to learn, at {rate}, {share}; {error}"
    return Finding(True, "time", text)
