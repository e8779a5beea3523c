"""Build a run on many maps: a runner, a controller and a critic for each map, with one set of weights."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lolm_plugin import maps
from lolm_plugin.controllers.controller import Controller
from lolm_plugin.controllers.many_maps_controller import ManyMapsMAC
from lolm_plugin.errors import ConfigError
from lolm_plugin.host import Host
from lolm_plugin.learners.mappo import MAPPOLearner
from lolm_plugin.maps import TrainingMap
from lolm_plugin.modules.critics import build_critic
from lolm_plugin.run.components import MapSetup, RenamedTestLogger, RunComponents, make_learner, map_setup
from lolm_plugin.runners.many_maps_runner import ManyMapsRunner
from lolm_plugin.tracking.series import HELD_OUT


@dataclass
class HeldOut:
    """Maps that a policy never trains on, with their runner and controllers.

    Attributes:
        at_end: battles on each map in the last test of a run.
        between: battles on each map in every earlier test; 0: none.
    """

    runner: ManyMapsRunner
    mac: ManyMapsMAC
    at_end: int
    between: int


def build_runner(host: Host, args: Any, logger: Any) -> Any:
    """Build the runner of a run, with one or many maps."""
    if isinstance(args.env_args.get("map_name"), list):
        return _many(host, args, logger, maps.training_maps(args))
    return host.find("runner", args.runner)(args=args, logger=logger)


def _many(host: Host, args: Any, logger: Any, listed: Sequence[TrainingMap]) -> ManyMapsRunner:
    def args_of(name: str) -> Namespace:
        return Namespace(**{**vars(args), "env_args": {**args.env_args, "map_name": name}})

    def build(own: Namespace, own_logger: Any) -> Any:
        return host.find("runner", own.runner)(args=own, logger=own_logger)

    return ManyMapsRunner(args, logger, listed, build, args_of)


def assemble_many(host: Host, args: Any, logger: Any, runner: ManyMapsRunner) -> RunComponents:
    """Build controllers and learner for the maps of ``runner``; see ``components.assemble``."""
    setups = [map_setup(host, each.args, each) for each in runner.runners]
    for name in ("n_agents", "n_actions", "state_shape"):
        setattr(args, name, max(getattr(setup.args, name) for setup in setups))
    first = setups[0]
    policy = first.build_mac(first.args)
    macs = [policy, *_for_maps(policy, setups[1:])]
    for own, setup, mac in zip(runner.runners, setups, macs, strict=True):
        setup.set_up(own, mac)
    learner = make_learner(host, ManyMapsMAC(macs, args), first, logger)
    if not isinstance(learner, MAPPOLearner):
        raise ConfigError(f"learner={args.learner} cannot learn from many maps; set env_args.map_name to one map.")
    learner.join_maps([build_critic(setup.complete, setup.args) for setup in setups[1:]], args)
    if args.use_cuda:
        learner.cuda()
    return RunComponents(args, logger, runner, learner, first.build_batch, first.build_mac)


def _for_maps(policy: Controller, setups: Sequence[MapSetup]) -> list[Controller]:
    if sizes := policy.fixed_sizes():
        said = ", ".join(f"{value} {name}" for name, value in sizes.items())
        raise ConfigError(
            f"agent={policy.args.agent} fits only one map ({said}) and cannot play several; set env_args.map_name to "
            "one map without test_maps, or --config to a policy that reads units, such as updet_mappo."
        )
    return [policy.for_map(setup.complete, setup.groups, setup.args) for setup in setups]


def build_held_out(host: Host, args: Any, logger: Any, mac: Any) -> HeldOut:
    """Build runners and controllers of ``test_maps`` for the policy of ``mac``, the controller of the learner."""
    policy = mac.first if isinstance(mac, ManyMapsMAC) else mac
    renamed = RenamedTestLogger(logger, HELD_OUT)
    at_end = args.test_maps_nepisode or args.test_nepisode
    between = at_end if args.test_maps_between is None else args.test_maps_between
    args = Namespace(**vars(args))  # a test changes its number of episodes
    runner = _many(host, args, renamed, [TrainingMap(name) for name in args.test_maps])
    try:
        setups = [map_setup(host, each.args, each) for each in runner.runners]
        macs = _for_maps(policy, setups)
        for own, setup, of_map in zip(runner.runners, setups, macs, strict=True):
            setup.set_up(own, of_map)
            of_map.decision_log.wanted = False  # the log has the decisions of the usual tests
        return HeldOut(runner, ManyMapsMAC(macs, args), at_end, between)
    except BaseException:
        runner.close_env()
        raise
