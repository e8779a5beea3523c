"""The loop of every run whose learner is ours, on either host: play, learn, test now and then, save now and then.

EPyMARL's own loop is left to EPyMARL's own learners: it keeps its counters to itself, so that no run of it can go on
where it stopped. This one does the same things at the same times (``tests/contract/test_run.py`` holds it to that), and
what a checkpoint needs besides.
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

from lolm_plugin import __version__, registry
from lolm_plugin.configuration import experiment
from lolm_plugin.configuration.config_files import merge
from lolm_plugin.errors import ConfigError, NumbersError, warn_on_failure
from lolm_plugin.host import Host
from lolm_plugin.paths import path_component
from lolm_plugin.randomness import keyed_seeds
from lolm_plugin.run import checkpoint_store as checkpoints
from lolm_plugin.run import progress, testing
from lolm_plugin.run.checkpoint_store import Checkpoint, SaveError, Store
from lolm_plugin.run.components import Parts, assemble, play
from lolm_plugin.run.progress import Progress
from lolm_plugin.run.resuming import Resumed, checkpoints_of
from lolm_plugin.run.stopping import Stopped, StopRequests, warnings_blocked
from lolm_plugin.run.transfer import table as transfer_table
from lolm_plugin.run.transfer import transfer
from lolm_plugin.versions import versions

# For configurations that are none of ours.
DEFAULTS = {"keep_checkpoints": None, "on_save_error": "warn", "strict": False, "transfer_from": ""}
DEFAULTS |= {"greedy_rule": "argmax", "test_sampled": False}


def run(
    host: Host,
    _run: Any,
    config: dict[str, Any],
    log: logging.Logger,
    resume: Resumed | None = None,
    training: "Callable[..., Training] | None" = None,
) -> float | None:
    """Trains or evaluates as ``config`` says; ``_run`` is Sacred's run object. Returns the last test's win rate.

    With ``resume``, the run continues in its own folder; ``checkpoint_path`` and ``transfer_from`` then only say how it
    once began. ``training`` is another way to train than by reinforcement.

    Raises:
        ConfigError: a name that is not registered, a checkpoint that does not exist or does not fit.
        NumbersError: something was not finite; what was learned from is in the run's folder.
        Stopped: a signal asked for it; everything is saved.
    """
    args = Namespace(**{**DEFAULTS, **_checked(merge(config, resume.settled if resume else {}), log)})
    args.device = "cuda" if args.use_cuda else "cpu"
    place = path_component(str(args.env_args.get("map_name") or args.env_args["key"]))
    args.unique_token = f"{args.name}_seed{args.seed}_{place}_{datetime.datetime.now()}"

    # Before anything slow is built.
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
    plays = (args.evaluate or args.save_replay) and not (start is None and source is None)
    goes_on = start is not None and not plays
    if goes_on:
        _new_battles(args, start)
    with StopRequests() as stop:
        with warnings_blocked(), stop.for_children() if args.runner == "parallel" else nullcontext():
            runner = host.find("runner", args.runner)(args=args, logger=logger)
        try:
            parts = assemble(host, args, logger, runner)
            testing.whole_batches(parts)
            if start is not None:
                log.info("Loading model from %s", start.path)
                parts.learner.load_models(str(start.path))
                runner.t_env = start.step
            if source is not None:
                _transfer(parts, source, _run)
            if plays:
                _evaluate(parts)
                log.info("Finished Evaluation")
            else:
                (training or Training)(host, parts, _run, config, start, resume, stop).run()
                log.info("Finished Training")
        except BaseException:
            runner.close_env()
            raise
        with warn_on_failure("The environment could not be closed", log):
            runner.close_env()
    if (record := _record(_run)) and (example := getattr(parts.learner.mac, "example", "")):
        with warn_on_failure("The example of a prompt could not be written", log):
            Path(record, "prompt.txt").write_text(example)
    if hasattr(logger, "finish"):
        with warn_on_failure("The trackers could not be closed", log):
            logger.finish()
    return next(iter(_score(logger)), None)


def _checked(config: dict[str, Any], log: logging.Logger) -> dict[str, Any]:
    config = dict(config)
    if config["use_cuda"] and not torch.cuda.is_available():
        config["use_cuda"] = False
        log.warning("use_cuda was switched off, as no CUDA device is available.")
    return config


def _check_runner(host: Host, args: Namespace) -> None:
    """EPyMARL's own runners store a time limit as an end, unless StarCraft itself says otherwise."""
    theirs = host.name != "bundled" and args.runner not in registry.ENTRIES["runner"]
    if theirs and getattr(args, "bootstrap_time_limit", None) and args.env not in ("sc2", "sc2v2"):
        raise ConfigError(
            f"bootstrap_time_limit=True has no effect with EPyMARL's runner={args.runner}, which stores a time limit "
            "as an end of the battle; set runner=supervised_parallel (or vector), or bootstrap_time_limit=null."
        )


def _new_battles(args: Namespace, start: Checkpoint) -> None:
    """Environments with generators of their own start these from a seed: never from one of the part before."""
    if args.runner != "vector":  # whose battles are drawn from seed and step
        seed = int(keyed_seeds(args.seed, "resumed", start.step, count=1)[0]) // 2
        args.env_args = {**args.env_args, "seed": seed}


def _transfer(parts: Parts, source: Checkpoint, run: Any) -> None:
    """Begin with the weights of another run, and write down which."""
    args, log = parts.args, parts.logger.console_logger
    env, map_name, moved = transfer(
        parts.learner, str(source.path), f"transfer_from={args.transfer_from}", args.transfer_critic
    )
    kl = "" if args.kl["enabled"] else " No KL."
    log.info("Transfer from step %d on %s %s:%s\n%s", source.step, env, map_name, kl, transfer_table(moved))
    if run is not None:
        run.info["transfer"] = {
            "source_env": env,
            "source_map": map_name,
            "source_step": source.step,
            "source_settings": experiment.settings(
                experiment.as_of_now(source.facts.get("config") or {}, source.facts)
            ),
            "checkpoint": str(source.path),
            "parts": [part._asdict() for part in moved],
        }


def _evaluate(parts: Parts) -> None:
    args, logger, runner = parts.args, parts.logger, parts.runner
    # No training statistics are due.
    runner.log_train_stats_t = runner.t_env
    testing.play_tests(parts)
    if args.save_replay:
        runner.save_replay()
    logger.log_stat("episode", runner.t_env, runner.t_env)
    logger.print_recent_stats()


class Training:
    """One training, from the start or from a checkpoint to ``t_max``."""

    def __init__(
        self,
        host: Host,
        parts: Parts,
        run: Any,
        config: dict[str, Any],
        start: Checkpoint | None,
        resume: Resumed | None,
        stop: StopRequests,
    ) -> None:
        self.parts, self.args, self.logger, self.runner = parts, parts.args, parts.logger, parts.runner
        self.log: logging.Logger = parts.logger.console_logger
        self.progress = Progress(last_test_t=-parts.args.test_interval - 1)
        self.start, self.resume, self.stop = start, resume, stop
        folder = Path(self.args.local_results_path, "models", self.args.unique_token)
        self.folder = resume.folder if resume else folder
        self._run, self._whole, self._saved = run, True, ""
        self._facts = {
            "algorithm": self.args.name,
            "env": self.args.env,
            "env_args": {key: value for key, value in config["env_args"].items() if key != "seed"},
            "seed": self.args.seed,
            "sizes": {name: getattr(self.args, name) for name in ("n_agents", "n_actions", "state_shape")},
            "host": {"name": host.name, "version": host.version},
            "version": __version__,
            **experiment.TIME_LIMITS,
            "packages": versions(),
            "sacred_runs": [*(start.facts.get("sacred_runs", []) if resume else []), _record(run)],
            "sacred_starts": [*(start.facts.get("sacred_starts", []) if resume else []), *_record_start(run)],
            "transfer": start.facts.get("transfer") if resume else getattr(run, "info", {}).get("transfer"),
            "config": {**config, "env_args": {**config["env_args"], "seed": None}},  # as in the record
            "settled": _settled(config, self.parts.learner.mac),
        }

    def run(self) -> None:
        """Train; see ``run`` above for what it raises."""
        with Store(self.folder, self.args.keep_checkpoints) if self.args.save_model else nullcontext() as self.store:
            try:
                self.stop.patient = True
                self._loop()
            except NumbersError as error:
                self._dump(error)
                raise
            except Stopped as stopped:
                stopped.saved = stopped.saved or self._saved
                raise
            except Exception:
                if self._whole:  # else weights may be half updated
                    self._save()
                raise
            finally:
                self.stop.patient = False

    def _loop(self) -> None:
        args, runner = self.args, self.runner
        self._began, self._first_t = time.monotonic(), runner.t_env
        if self.start is None or self._go_on():
            self._after_batch()  # a new run begins with a test of the untrained, or transferred, policy
        else:
            self._test_if_due()
        self.log.info("Beginning training for %s timesteps", args.t_max)
        while runner.t_env <= args.t_max:
            self._learn_from(play(self.parts))
            self._after_batch()
        self._save()

    def _go_on(self) -> bool:
        """To where the checkpoint's run stood; whether it says what was due there.

        Where it was another battle's, its step alone is taken over.
        """
        self._whole = False  # what is not put back yet must not take the place of what is there
        facts, same = self.start.facts, not self.start.facts
        if facts:
            same = (facts["env"], facts["env_args"]) == (self._facts["env"], self._facts["env_args"])
        if not same and self.resume:
            raise ConfigError("--resume goes on in the same battle; set checkpoint_path in its place for another.")
        if not same:
            self.log.info("%s comes from another battle, so that series and tests start afresh.", self.start.path)
            self._whole = True
            return False
        self.progress = progress.load(self.parts, self.start.path)
        if not self.progress.score:
            self.progress.score = _score(self.logger) or None
        if self.resume and self.store is not None:
            self.store.set_aside_after(self.start.step)
            self._saved = str(self.start.path)
        if self._run is not None:
            parents = facts.get("sacred_runs") or [None]
            if self._facts["transfer"]:
                self._run.info["transfer"] = self._facts["transfer"]
            self._run.info["resumed_from"] = {"checkpoint": str(self.start.path), "sacred_run": parents[-1]}
            if self.resume and self.resume.changes:
                self._run.info["resumed_from"]["changed"] = {key: [*both] for key, both in self.resume.changes.items()}
        self.log.info("Going on at step %d, where %s was written.", self.runner.t_env, self.start.path)
        if facts and facts["host"]["name"] != self._facts["host"]["name"]:
            self.log.warning("Its host was %s, this one is %s.", facts["host"]["name"], self._facts["host"]["name"])
        self._whole = True
        return bool(facts)

    def _learn_from(self, batch: Any) -> None:
        if batch is not None:
            self._whole = False
            self.parts.learner.train(batch, self.runner.t_env, self.progress.episode)
            self._whole = True
        self.progress.episode += self.args.batch_size_run

    def _after_batch(self) -> None:
        """What is due: a test, a checkpoint, a line in the log. Due again for whoever goes on from a checkpoint."""
        args, runner, done = self.args, self.runner, self.progress
        tested = self.stop.number is None and (self._test_if_due() or self._test_at_end())
        if self.stop.number is not None:
            raise Stopped(self.stop.number, self._save())
        # Before saving: the same checkpoint comes of a stop, of an interval and of the end.
        if runner.t_env - done.last_log_t >= args.log_interval:
            self.logger.log_stat("episode", done.episode, runner.t_env)
            self.logger.print_recent_stats()
            done.last_log_t = runner.t_env
        if self.store is not None and (
            done.last_save_t == progress.NEVER
            or runner.t_env - done.last_save_t >= args.save_model_interval
            or (tested and self._best_yet())
        ):
            self._save(again=tested)

    def _test_if_due(self) -> bool:
        """Whether a whole test was played; one that a signal cut short counts for nothing and comes again."""
        args, runner, done = self.args, self.runner, self.progress
        if runner.t_env - done.last_test_t < args.test_interval:
            return False
        elapsed = time.monotonic() - self._began
        left = elapsed * max(0, args.t_max - runner.t_env) / max(1, runner.t_env - self._first_t)
        self.log.info("t_env: %s / %s", runner.t_env, args.t_max)
        if runner.t_env > self._first_t:
            self.log.info("Estimated time left: %s. Time passed: %s", _duration(left), _duration(elapsed))
        if not self._test():
            return False
        done.last_test_t = runner.t_env
        return True

    def _test_at_end(self) -> bool:
        """Test the final policy, unless this step was tested already; returns whether a whole test was played."""
        t_env, done = self.runner.t_env, self.progress
        if t_env <= self.args.t_max or t_env in (done.last_test_t, done.end_test_t) or not self._test():
            return False
        done.end_test_t = t_env
        return True

    def _test(self) -> bool:
        """Play the tests; False if a signal cut them short, after which they count for nothing."""
        if not testing.play_tests(self.parts, lambda: self.stop.number is not None):
            return False
        # Reset the usage counters, so that LM usage of tests is not attributed to the next training batch.
        getattr(self.parts.learner.mac, "take_usage", dict)()
        self.progress.score = _score(self.logger)
        return True

    def _best_yet(self) -> bool:
        best = self.store.best_score()
        return bool(self.progress.score) and (best is None or self.progress.score > best)

    def _save(self, again: bool = False) -> str:
        """Write a checkpoint unless this step has one, or ``again``; returns the last one's folder, empty for none."""
        done, t_env = self.progress, self.runner.t_env
        if self.store is None or t_env == 0:
            return ""
        if done.last_save_t == t_env and not again:
            return self._saved
        before, done.last_save_t = done.last_save_t, t_env
        # Only the policy that was tested has the test's score.
        score = done.score if t_env in (done.last_test_t, done.end_test_t) else None
        facts = {**self._facts, "t_env": t_env, checkpoints.SCORE: score, "finished": t_env > self.args.t_max}
        self.log.info("Saving models to %s", self.folder / str(t_env))
        try:
            saved = self.store.save(t_env, self._fill, facts)
        except SaveError as error:
            done.last_save_t = before
            if self.args.on_save_error == "stop":
                raise
            self.log.warning("%s; those before it are whole, and training goes on (on_save_error=warn).", error)
            return self._saved
        self._saved = str(saved)
        self._to_wandb(saved)
        return self._saved

    def _fill(self, folder: Path) -> None:
        self.parts.learner.save_models(str(folder))
        progress.save(self.parts, self.progress, folder)

    def _to_wandb(self, saved: Path) -> None:
        if self.args.use_wandb and self.args.wandb_save_model:
            try:
                shutil.copytree(saved, Path(self.logger.wandb.dir, "models", *saved.parts[-2:]), dirs_exist_ok=True)
            except (OSError, shutil.Error) as error:
                self.log.warning("%s could not be copied for W&B (%s).", saved, error)

    def _dump(self, error: NumbersError) -> None:
        """Keep what was learned from, for whoever looks for the cause."""
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
    """Return the last test's scores, the most important first; empty if one of them is not finite."""
    names = ("test_battle_won_mean", "test_return_mean", "test_total_return_mean")
    score = [float(logger.stats[name][-1][1]) for name in names if logger.stats.get(name)]
    return score if all(map(math.isfinite, score)) else []


def _settled(config: dict[str, Any], mac: Any) -> dict[str, Any]:
    """Return the settings chosen by measurement. A resumed run keeps them, as others would sum in another order."""
    threads = {"torch_threads": torch.get_num_threads()} if "torch_threads" in config else {}
    return merge(threads, getattr(mac, "settled", dict)())


def _record_start(run: Any) -> list[tuple[str, str]]:
    """The record's folder and when it began, which its ``run.json`` says too: numbers are given again."""
    folder, began = _record(run), getattr(run, "start_time", None)
    return [(folder, began.isoformat())] if folder and began else []


def _record(run: Any) -> str | None:
    """The folder of Sacred's file record, if there is one."""
    folders = [getattr(observer, "dir", None) for observer in getattr(run, "observers", None) or []]
    return next((str(folder) for folder in folders if folder), None)


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
