"""``lolm imitate``: a student learns from the decisions of a teacher and is saved like any other run."""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

import torch

from lolm_plugin.controllers.controller import Controller
from lolm_plugin.learners.imitation import (
    LABELLED_AT_ONCE,
    ImitationData,
    Student,
    build_imitation_data,
    teacher_log_probs,
)
from lolm_plugin.protocols import Batch
from lolm_plugin.run import teachers, testing
from lolm_plugin.run.components import RunComponents
from lolm_plugin.run.loop import Training
from lolm_plugin.run.progress import progress
from lolm_plugin.run.teachers import Teacher

LOGGED = ("battle_won_mean", "return_mean", "ep_length_mean")  # of the battles that the student learns from


class Imitation(Training):
    """Imitation learning, in place of reinforcement learning.

    In round 0 the teacher plays. In later rounds (DAgger) the student plays, and the teacher labels each state with the
    action that it would take. The data of all rounds are kept. ``t_env`` counts the environment steps of all battles.
    """

    def __init__(self, teacher: Teacher, *args: Any) -> None:
        """Imitate ``teacher``; ``args`` as for ``Training``."""
        super().__init__(*args)
        self.teacher = teacher

    def _loop(self) -> None:
        args = self.args
        # No checkpoint exists until the end, so a signal stops the run at once.
        self.stop.patient, self.consistent = False, False
        self.seconds: dict[str, float] = defaultdict(float)
        self.collected: dict[str, float] = {}
        self.student = Student(self.components.learner)
        teacher = teachers.build(self.teacher, self.components)
        with self._timed("test"):
            self._test_student()
            self._test_teacher(teacher)
        at_once = self.runner.batch_size
        data = _Data(self.components, args.imitate["rounds"] * at_once * _n_batches(args.imitate["battles"], at_once))
        held_out = _Data(self.components, at_once * _n_batches(args.imitate["held_out"], at_once))
        for number in range(args.imitate["rounds"]):
            self._round(teacher, data, held_out, number)
        self.components.learner.mac.end_update()
        self.consistent = True
        self._save()
        if self.session.sacred_run is not None:
            self.session.sacred_run.info["imitation"] = self._summary(data, held_out)

    def _round(self, teacher: Controller, data: "_Data", held_out: "_Data", number: int) -> None:
        settings, runner, learner = self.args.imitate, self.runner, self.components.learner
        if number == 0:
            with self._timed("teacher"):
                self._play(teacher, held_out, settings["held_out"], "teacher plays held-out battles", "", teacher)
                self._play(teacher, data, settings["battles"], "teacher plays", "teacher_", teacher)
        else:
            with self._timed("student"):
                self._play(learner.mac, data, settings["battles"], f"round {number + 1}: student plays", "", teacher)
        with self._timed("prepare"):
            lesson, exam = (kept.lessons(learner.mac, self.args.gamma, self.log) for kept in (data, held_out))
            self.log.info("%d decisions to learn from, %d held out.", len(lesson), len(exam))
            learner.value_normaliser.update(lesson.returns, lesson.counts)
        with self._timed("learn"):
            self._learn(lesson, exam, number)
        with self._timed("test"):
            self._test_student()
        self.logger.log_stat("episode", data.size, runner.t_env)

    def _play(self, mac: Controller, data: "_Data", battles: int, label: str, prefix: str, teacher: Controller) -> None:
        """Let ``mac`` play at least ``battles`` battles, add them to ``data``, and log statistics under ``prefix``."""
        runner = self.runner
        with self._played_by(mac) as stats:
            batches = range(_n_batches(battles, runner.batch_size))
            for _ in progress(batches, label, runner.batch_size, self.log, "battle"):
                data.add(runner.run(test_mode=False), teacher, mac is teacher)
        teacher.end_update()  # frees the rollout's hidden states; a teacher has no update that needs them
        if prefix or mac is not teacher:
            for name in LOGGED:
                if name in stats:
                    self.collected[prefix + name] = fmean(stats[name])
                    self.logger.log_stat(prefix + name, self.collected[prefix + name], runner.t_env)

    def _test_student(self) -> None:
        self._test()
        self.state.last_test_t = self.runner.t_env  # a checkpoint of this step gets the test's score

    def _test_teacher(self, teacher: Controller) -> None:
        """Test the teacher greedily on the same battles as the student."""
        with self._played_by(teacher) as stats:
            testing.play_battles(self.components, teacher)
        for name in ("test_battle_won_mean", "test_return_mean"):
            if name in stats:
                self.collected[f"teacher_{name}"] = stats[name][-1]
                self.logger.log_stat(f"teacher_{name}", stats[name][-1], self.runner.t_env)

    def _learn(self, lesson: ImitationData, exam: ImitationData, number: int) -> None:
        epochs, t_env = self.args.imitate["epochs"], self.runner.t_env
        steps = self.student.n_steps(lesson)
        work = ((epoch, losses) for epoch in range(epochs) for losses in self.student.epoch(lesson, t_env, epoch))
        stats: dict[str, list[float]] = defaultdict(list)
        label = f"round {number + 1}: {epochs} epochs"
        for done, (epoch, losses) in enumerate(progress(work, label, 1, self.log, "step", total=epochs * steps), 1):
            for name, value in losses.items():
                stats[f"imitate_{name}"].append(value)
            if done % steps == 0:
                for name, value in self.student.evaluate(exam).items():
                    stats[f"imitate_{'held_out_' if name == 'loss' else ''}{name}"] = [value]
                means = {name: fmean(values) for name, values in stats.items()}
                self.collected |= means
                for name, value in means.items():
                    self.logger.log_stat(name, value, t_env)
                text = ", ".join(f"{name.removeprefix('imitate_')} {value:.3f}" for name, value in means.items())
                self.log.info("Round %d, epoch %d of %d: %s.", number + 1, epoch + 1, epochs, text)
                stats.clear()

    @contextmanager
    def _played_by(self, mac: Controller) -> Iterator[dict[str, list[float]]]:
        """Let ``mac`` act in the runner. Yields the statistics that the runner logs, one value per batch."""
        runner, args, stats = self.runner, self.args, _Collector(self.log)
        before = runner.mac, runner.logger, args.runner_log_interval
        runner.mac, runner.logger, args.runner_log_interval = mac, stats, 0
        try:
            yield stats.values
        finally:
            runner.mac, runner.logger, args.runner_log_interval = before

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[part] += time.monotonic() - started
        self.logger.log_stat(f"imitate_seconds_{part}", self.seconds[part], self.runner.t_env)

    def _summary(self, data: "_Data", held_out: "_Data") -> dict[str, Any]:
        """Return the results for the record and the closing summary."""
        stats = self.logger.stats
        tests = {name: stats[name] for name in ("test_battle_won_mean", "test_return_mean") if stats.get(name)}
        return {
            "teacher": self.teacher.name,
            "teacher_step": self.teacher.checkpoint.step if self.teacher.checkpoint else None,
            "battles": data.size,
            "held_out_battles": held_out.size,
            "test_battles": self.args.test_nepisode,
            "before": {name: float(points[0][1]) for name, points in tests.items()},
            "after": {name: float(points[-1][1]) for name, points in tests.items()},
            "seconds": {part: round(seconds, 1) for part, seconds in self.seconds.items()},
            "checkpoints": str(self.folder) if self.saved else None,
            **self.collected,
        }


class _Data:
    """Whole battles with the teacher's log-probabilities and the action to learn in every state."""

    def __init__(self, components: RunComponents, battles: int) -> None:
        self.batch: Batch = components.build_batch(battles)
        self.device = components.args.device
        self.size = 0
        shape = self.batch["avail_actions"].shape
        self.log_teacher = torch.zeros(shape)  # [battles, time, agents, actions]
        self.actions = torch.zeros(shape[:-1], dtype=torch.int64)

    def add(self, batch: Batch, teacher: Controller, by_teacher: bool) -> None:
        """Add a batch of battles. If the teacher did not play them, its most likely actions are the labels."""
        batch = batch[:, : int(batch.max_t_filled())]
        log_teacher = teacher_log_probs(teacher, batch)
        actions = batch["actions"].squeeze(-1) if by_teacher else log_teacher.argmax(-1)
        where = slice(self.size, self.size + batch.batch_size), slice(0, batch.max_seq_length)
        self.log_teacher[where], self.actions[where] = log_teacher.cpu(), actions.cpu()
        for name, values in batch.data.transition_data.items():
            self.batch[name][where] = values.to(self.batch.device)
        self.size += batch.batch_size

    def lessons(self, mac: Controller, gamma: float, log: logging.Logger) -> ImitationData:
        """Return all battles so far, prepared for learning."""
        batch = self.batch[: self.size]
        batch = batch[:, : int(batch.max_t_filled())]
        if batch.device != self.device:
            batch.to(self.device)
        length = batch.max_seq_length
        log_teacher, actions = (kept[: self.size, :length].to(self.device) for kept in (self.log_teacher, self.actions))

        def show_progress(starts: Sequence[int]) -> Iterator[int]:
            return progress(starts, "language model reads", LABELLED_AT_ONCE, log, "battle")

        return build_imitation_data(mac, batch, log_teacher, actions, gamma, show_progress)


class _Collector:
    """Logger that collects statistics in memory, in place of the host's logger."""

    def __init__(self, log: logging.Logger) -> None:
        self.console_logger = log
        self.values: dict[str, list[float]] = defaultdict(list)

    def log_stat(self, key: str, value: Any, t: int, to_sacred: bool = True) -> None:
        """Append a value."""
        self.values[key].append(float(value))


def _n_batches(battles: int, at_once: int) -> int:
    return math.ceil(battles / at_once)
