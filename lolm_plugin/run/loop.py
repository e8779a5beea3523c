"""Training loop for our learners, on either host: play, learn, test and save at intervals.

EPyMARL's own learners run in EPyMARL's own loop. That loop hides its counters, so its runs cannot be resumed. This
loop does the same at the same times (``tests/contract/test_run.py``) and can write its state to a checkpoint.
"""

import datetime
import logging
import math
import shutil
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from pprint import pformat
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from lolm_plugin import checkpoints, maps, registry
from lolm_plugin.checkpoints import Checkpoint, SaveError, Store
from lolm_plugin.configuration.config_files import merge
from lolm_plugin.errors import ConfigError, NonFiniteError, warn_on_failure
from lolm_plugin.host import Host
from lolm_plugin.paths import path_component
from lolm_plugin.randomness import keyed_seeds
from lolm_plugin.run import loop_state, testing
from lolm_plugin.run.components import RunComponents, assemble, play
from lolm_plugin.run.loop_state import NEVER, LoopState
from lolm_plugin.run.many_maps import assemble_many, build_held_out, build_runner
from lolm_plugin.run.resuming import Resumed, checkpoints_of
from lolm_plugin.run.session import Session, sacred_folder
from lolm_plugin.run.stopping import Stopped, StopRequests, warnings_blocked
from lolm_plugin.run.transfer import transfer
from lolm_plugin.runners.many_maps_runner import ManyMapsRunner
from lolm_plugin.watch.record import Record

# Defaults of our keys. Configurations of the host's own algorithms lack them.
DEFAULTS: dict[str, Any] = {"keep_checkpoints": None, "on_save_error": "warn", "strict": False, "transfer_from": ""}
DEFAULTS |= {"greedy_rule": "argmax", "test_sampled": False, "test_maps": [], "keep_battles": 0}
DEFAULTS |= {"test_maps_nepisode": None, "test_maps_between": None}
SCORES = ("test_battle_won_mean", "test_return_mean", "test_total_return_mean")  # of a test, most important score first


def run(
    host: Host,
    _run: Any,
    config: dict[str, Any],
    log: logging.Logger,
    resume: Resumed | None = None,
    training: "Callable[..., Training] | None" = None,
    watch: Callable[[Record], None] | None = None,
) -> float | None:
    """Train or evaluate as ``config`` says; return the last test's win rate, or its return if there is no win rate.

    ``_run`` is Sacred's run object. With ``resume`` the run continues in its own folder; ``checkpoint_path`` and
    ``transfer_from`` then only record how it began. ``training`` replaces reinforcement learning. ``watch`` gets the
    record of an evaluation's battles.

    Raises:
        ConfigError: a name is not registered, or a checkpoint does not exist or does not fit.
        NonFiniteError: a number was NaN or infinite; its batch is saved in the run's folder.
        Stopped: a signal requested the stop; the last checkpoint is saved.
    """
    args = _arguments(config, resume, log)
    _check_runner(host, args)
    start = source = None
    if resume:
        start = checkpoints.find(resume.folder, args.load_step, args.strict, log, "--resume")
        args.unique_token = resume.folder.resolve().name
    elif args.checkpoint_path:
        start = checkpoints.find(Path(args.checkpoint_path), args.load_step, args.strict, log)
    elif args.transfer_from:
        folder = checkpoints_of(Path(args.transfer_from), "transfer_from")
        source = checkpoints.find(folder, args.load_step, args.strict, log, "transfer_from")
    logger = host.open_logger(log, args, config, _run)
    log.info("Experiment Parameters:\n%s\n", pformat(config, indent=4, width=1))
    evaluates = (args.evaluate or args.save_replay) and (start or source) is not None
    if start is not None and not evaluates:
        _reseed_environments(args, start)
    with StopRequests() as stop:
        forks = _is_epymarls(host, args) and args.runner == "parallel"
        with warnings_blocked(), stop.for_children() if forks else nullcontext():
            runner = build_runner(host, args, logger)
        components = None
        try:
            components = _assemble(host, args, logger, runner)
            testing.round_to_batches(components)
            if args.keep_battles and training is None:
                kept_in = Path(into) if (into := sacred_folder(_run)) else None
                components.keeper = testing.build_keeper(components, kept_in, log, bool(watch))
            if start is not None:
                log.info("Loading model from %s", start.path)
                components.learner.load_models(str(start.path))
                runner.t_env = start.step
            if source is not None:
                transferred = transfer(components, source)
                if _run is not None:
                    _run.info["transfer"] = transferred
            if evaluates:
                _evaluate(components, watch)
                log.info("Finished Evaluation")
            else:
                (training or Training)(components, Session(host, _run, config, stop, start, resume)).run()
                log.info("Finished Training")
        except BaseException:
            (components.close if components else runner.close_env)()
            raise
        with warn_on_failure("The environment could not be closed", log):
            components.close()
    if (record := sacred_folder(_run)) and (example := getattr(components.learner.mac, "example", "")):
        with warn_on_failure("The example of a prompt could not be written", log):
            Path(record, "prompt.txt").write_text(example)
    if components.keeper:
        components.keeper.publish(_run, logger)
    if hasattr(logger, "finish"):
        with warn_on_failure("The trackers could not be closed", log):
            logger.finish()
    return next(iter(_score(logger)), None)


def _arguments(config: dict[str, Any], resume: Resumed | None, log: logging.Logger) -> Namespace:
    args = Namespace(**{**DEFAULTS, **merge(config, resume.resolved_settings if resume else {})})
    if args.use_cuda and not torch.cuda.is_available():
        args.use_cuda = False
        log.warning("use_cuda is switched off, because no CUDA device is available.")
    args.device = "cuda" if args.use_cuda else "cpu"
    map_name = path_component(maps.label(args.env_args.get("map_name") or args.env_args["key"]))
    args.unique_token = f"{args.name}_seed{args.seed}_{map_name}_{datetime.datetime.now()}"
    return args


def _assemble(host: Host, args: Namespace, logger: Any, runner: Any) -> RunComponents:
    """Build controller and learner for one map or many, and the runner of ``test_maps``."""
    build = assemble_many if isinstance(runner, ManyMapsRunner) else assemble
    components = build(host, args, logger, runner)
    if args.test_maps:
        components.held_out = build_held_out(host, args, logger, components.learner.mac)
    return components


def _is_epymarls(host: Host, args: Namespace) -> bool:
    return host.name != "bundled" and args.runner not in registry.ENTRIES["runner"]


def _check_runner(host: Host, args: Namespace) -> None:
    """Raise ConfigError for ``bootstrap_time_limit`` with EPyMARL's runners.

    Outside StarCraft they store a time limit as the end of an episode.
    """
    if _is_epymarls(host, args) and getattr(args, "bootstrap_time_limit", None) and args.env not in ("sc2", "sc2v2"):
        raise ConfigError(
            f"bootstrap_time_limit=True has no effect with EPyMARL's runner={args.runner}, which stores a time limit "
            "as an end of the battle; set runner=supervised_parallel (or vector), or bootstrap_time_limit=null."
        )


def _reseed_environments(args: Namespace, start: Checkpoint) -> None:
    """Draw a new seed for environments with their own RNG, so that they do not repeat the battles of the run so far."""
    if args.runner != "vector":  # its battles depend on seed and step only
        seed = int(keyed_seeds(args.seed, "resumed", start.step, count=1)[0]) // 2
        args.env_args = {**args.env_args, "seed": seed}


def _evaluate(components: RunComponents, watch: Callable[[Record], None] | None) -> None:
    args, logger, runner = components.args, components.logger, components.runner
    step = runner.t_env
    if watch:
        runner.t_env = 0  # a key of the battles' seeds: two policies of different steps then play the same battles
    runner.log_train_stats_t = runner.t_env  # log no training statistics
    testing.play_tests(components)
    if components.keeper:
        components.keeper.save(_score(logger), step)
        if watch and components.keeper.record:
            watch(components.keeper.record)
    if args.save_replay:
        runner.save_replay()
    logger.log_stat("episode", runner.t_env, runner.t_env)
    logger.print_recent_stats()


class Training:
    """Training run, from step 0 or from a checkpoint, to ``t_max``."""

    def __init__(self, components: RunComponents, session: Session) -> None:
        self.components, self.args = components, components.args
        self.logger, self.runner = components.logger, components.runner
        self.log: logging.Logger = components.logger.console_logger
        self.session, self.stop = session, session.stop
        self.state = LoopState(last_test_t=-components.args.test_interval - 1)
        models = Path(self.args.local_results_path, "models", self.args.unique_token)
        self.folder = session.resume.folder if session.resume else models
        self.store: Store | None = None
        self.consistent = True  # False while weights or loop state are half updated and must not be saved
        self.saved = ""  # folder of the last checkpoint
        self._facts = session.facts(components)

    def run(self) -> None:
        """Train to ``t_max``. Raises the same errors as the function ``run``."""
        with Store(self.folder, self.args.keep_checkpoints) if self.args.save_model else nullcontext() as self.store:
            try:
                self.stop.patient = True
                self._loop()
            except NonFiniteError as error:
                self._dump(error)
                raise
            except Stopped as stopped:
                stopped.saved = stopped.saved or self.saved
                raise
            except Exception:
                if self.consistent:
                    self._save()
                raise
            finally:
                self.stop.patient = False

    def _loop(self) -> None:
        args, runner = self.args, self.runner
        self._began, self._first_t = time.monotonic(), runner.t_env
        if self.session.start is None or self._continue_from(self.session.start):
            self._after_batch()  # a new run first tests the untrained, or transferred, policy
        else:
            self._test_if_due()
        self.log.info("Beginning training for %s timesteps", args.t_max)
        while runner.t_env <= args.t_max:
            self._learn_from(play(self.components))
            self._after_batch()
        self._save()

    def _continue_from(self, start: Checkpoint) -> bool:
        """Restore the loop state. Returns False if the checkpoint has another ``env`` or ``env_args``.

        Of such a checkpoint only the step is used.
        """
        facts, resume, sacred_run = start.facts, self.session.resume, self.session.sacred_run
        self.consistent = False
        same_battle = all(facts.get(key) == self._facts[key] for key in ("env", "env_args"))
        if same_battle:
            self.state = loop_state.load(self.components, start)
        elif resume:
            raise ConfigError("--resume needs the same env and env_args; to change them, set checkpoint_path instead.")
        self.consistent = True
        if not same_battle:
            self.log.info("%s has another env or env_args, so logged series and tests start anew.", start.path)
            return False
        if not self.state.score:
            self.state.score = _score(self.logger) or None
        if resume and self.store is not None:
            self.store.set_aside_after(start.step)
            self.saved = str(start.path)
        if sacred_run is not None:
            if self._facts["transfer"]:
                sacred_run.info["transfer"] = self._facts["transfer"]
            parents = facts.get("sacred_runs") or [None]
            sacred_run.info["resumed_from"] = {"checkpoint": str(start.path), "sacred_run": parents[-1]}
            if resume and resume.changes:
                sacred_run.info["resumed_from"]["changed"] = {key: [*both] for key, both in resume.changes.items()}
        self.log.info("Continuing at step %d from %s.", self.runner.t_env, start.path)
        theirs, ours = facts.get("host", {}).get("name"), self.session.host.name
        if theirs != ours:
            self.log.warning("The checkpoint was written with host %s; this run uses host %s.", theirs, ours)
        return True

    def _learn_from(self, batch: Any) -> None:
        self.consistent = False
        self.components.learner.train(batch, self.runner.t_env, self.state.episode)
        self.consistent = True
        self.state.episode += self.args.batch_size_run

    def _after_batch(self) -> None:
        """Test, log and save if due. A resumed run first does what was still due at its checkpoint's step."""
        args, runner, state = self.args, self.runner, self.state
        tested = self.stop.number is None and (self._test_if_due() or self._test_at_end())
        if self.stop.number is not None:
            raise Stopped(self.stop.number, self._save())
        # Log before saving: a checkpoint written at an interval and one written at the end are then the same.
        if runner.t_env - state.last_log_t >= args.log_interval:
            self.logger.log_stat("episode", state.episode, runner.t_env)
            self.logger.print_recent_stats()
            state.last_log_t = runner.t_env
        if self.store is not None and (
            state.last_save_t == NEVER
            or runner.t_env - state.last_save_t >= args.save_model_interval
            or (tested and self._is_best(self.store))
        ):
            self._save(again=tested)

    def _test_if_due(self) -> bool:
        """Test if ``test_interval`` steps have passed. Returns True if a whole test was played."""
        args, runner, state = self.args, self.runner, self.state
        if runner.t_env - state.last_test_t < args.test_interval:
            return False
        elapsed = time.monotonic() - self._began
        left = elapsed * max(0, args.t_max - runner.t_env) / max(1, runner.t_env - self._first_t)
        self.log.info("t_env: %s / %s", runner.t_env, args.t_max)
        if runner.t_env > self._first_t:
            left_and_passed = [datetime.timedelta(seconds=round(seconds)) for seconds in (left, elapsed)]
            self.log.info("Estimated time left: %s. Time passed: %s", *left_and_passed)
        if not self._test():
            return False
        state.last_test_t = runner.t_env
        return True

    def _test_at_end(self) -> bool:
        """Test the final policy, unless this step was tested already. Returns True if a whole test was played."""
        t_env, state = self.runner.t_env, self.state
        if t_env <= self.args.t_max or t_env in (state.last_test_t, state.end_test_t) or not self._test():
            return False
        state.end_test_t = t_env
        return True

    def _test(self) -> bool:
        """Play the tests. Returns False if a signal ended them early; they are then discarded and stay due."""
        is_last = self.runner.t_env > self.args.t_max
        if not testing.play_tests(self.components, lambda: self.stop.number is not None, is_last):
            return False
        # Reset the usage counters, so that LM usage of tests is not attributed to the next training batch.
        getattr(self.components.learner.mac, "pop_usage", dict)()
        self.state.score = _score(self.logger)
        if self.components.keeper:
            self.components.keeper.save(self.state.score, self.runner.t_env)
        return True

    def _is_best(self, store: Store) -> bool:
        score, best = self.state.score or [], store.best_score() or []
        return score > best  # lists: an absent score is empty and the lowest

    def _save(self, again: bool = False) -> str:
        """Write a checkpoint if this step has none, or if ``again``.

        Returns the folder of the last checkpoint, "" if there is none.
        """
        state, t_env = self.state, self.runner.t_env
        if self.store is None or t_env == 0:
            return ""
        if state.last_save_t == t_env and not again:
            return self.saved
        before, state.last_save_t = state.last_save_t, t_env
        # A score belongs only to the policy that was tested.
        score = state.score if t_env in (state.last_test_t, state.end_test_t) else None
        facts = {**self._facts, "t_env": t_env, checkpoints.SCORE: score, "finished": t_env > self.args.t_max}
        self.log.info("Saving models to %s", self.folder / str(t_env))
        try:
            saved = self.store.save(t_env, self._fill, facts)
        except SaveError as error:
            state.last_save_t = before
            if self.args.on_save_error == "stop":
                raise
            self.log.warning("%s; earlier checkpoints are intact, and training continues (on_save_error=warn).", error)
            return self.saved
        self.saved = str(saved)
        if self.args.use_wandb and self.args.wandb_save_model:
            try:
                shutil.copytree(saved, Path(self.logger.wandb.dir, "models", *saved.parts[-2:]), dirs_exist_ok=True)
            except (OSError, shutil.Error) as error:
                self.log.warning("%s could not be copied for W&B (%s).", saved, error)
        return self.saved

    def _fill(self, folder: Path) -> None:
        self.components.learner.save_models(str(folder))
        loop_state.save(self.components, self.state, folder)

    def _dump(self, error: NonFiniteError) -> None:
        """Write the batch with the non-finite number into the run's folder."""
        if error.batch is None:
            return
        folder = self.folder / f"not-finite-{self.runner.t_env}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fields = error.batch.data.transition_data.items()
            save_file({name: field.cpu().contiguous() for name, field in fields}, folder / "batch.safetensors")
            (folder / "error.txt").write_text(f"{error}\n")
        except (OSError, SafetensorError) as problem:
            self.log.warning("The batch could not be written to %s (%s).", folder, problem)
            return
        error.dumped = str(folder)


def _score(logger: Any) -> list[float]:
    """Return the scores of the last test, most important first; an empty list if one of them is not finite."""
    score = [float(logger.stats[name][-1][1]) for name in SCORES if logger.stats.get(name)]
    return score if all(map(math.isfinite, score)) else []
