"""Start a checked configuration as a Sacred run: observers, threads, training loop, closing summary, exit code."""

import logging
import shlex
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lolm_plugin import __version__, registry, tuning
from lolm_plugin import host as hosts
from lolm_plugin.configuration import checkpoint_config, config_check
from lolm_plugin.errors import NonFiniteError, warn_on_failure
from lolm_plugin.passwords import Address, hidden, hidden_words
from lolm_plugin.paths import path_component
from lolm_plugin.run.resuming import Resumed


@dataclass(frozen=True)
class Launch:
    """Command line of a run."""

    program: Sequence[str]  # words before the arguments
    arguments: Sequence[str]
    options: Mapping[str, Any]  # Sacred's part of the command line
    notes: Sequence[str]  # lines for the log
    resume: Resumed | None
    mongo: Address | None = None  # a database for the record
    teacher: Any = None  # a ``run.teachers.Teacher``: imitate it; None: train or play

    def resume_command(self, config: Mapping[str, Any], folder: Path) -> str:
        """Return the command that resumes this run, with the host and settings that no checkpoint can give."""
        said = [i for i, word in enumerate(self.arguments) if word.split("=")[0] == "--epymarl"]
        host = [word for i in said for word in self.arguments[i : i + (1 if "=" in self.arguments[i] else 2)]]
        repeated = checkpoint_config.to_repeat(config)
        words = [*self.program, *host, "--resume", str(folder), *(["with", *repeated] if repeated else [])]
        return hidden(shlex.join(words))

    def command(self) -> str:
        """Return the command line without secrets and without Sacred's --id, which only one run can have."""
        kept, skip = [], False
        for word in self.arguments:
            if not skip and not word.startswith(("-i", "--id=")) and word != "--id":
                kept.append(word)
            skip = word in ("-i", "--id")
        return shlex.join(hidden_words([*self.program, *kept]))


def launch(config: dict[str, Any], host: hosts.Host, asked: Launch) -> int:
    """Train or evaluate under Sacred. Returns the exit code: 1 if the run failed with an error sentence."""
    with ExitStack() as closing:
        return _launch(config, host, asked, closing)


def _launch(config: dict[str, Any], host: hosts.Host, asked: Launch, closing: ExitStack) -> int:
    import numpy as np
    import torch
    from sacred import SETTINGS, Experiment

    from lolm_plugin.checkpoints import SaveError
    from lolm_plugin.run import loop
    from lolm_plugin.run.imitation import Imitation
    from lolm_plugin.run.stopping import Stopped, StopRequests
    from lolm_plugin.tracking.console import (
        ProgressObserver,
        actions_of_tests,
        map_name,
        summarise,
        summarise_imitation,
    )
    from lolm_plugin.tracking.file_observer import FileObserver
    from lolm_plugin.tracking.mongo_observer import MongoObserver
    from lolm_plugin.tracking.output import Output
    from lolm_plugin.tracking.provenance import peak_memory, provenance

    logger, output, options = console_logger(), Output(), dict(asked.options)
    if options["--capture"] in (None, "sys"):  # Sacred's own capture loses the last output of a run that fails
        options["--capture"] = None
        closing.enter_context(output.tee())
    logger.info(f"lolm_plugin {__version__}. {host.describe()}")
    hosts.register(host)
    threads = 1  # as in the host's own main
    if config["mac"] in registry.ENTRIES["mac"]:
        for note in [*_differences_from_paper(config), *asked.notes]:
            logger.info(note)
        policy = "language models" if config["mac"] == config_check.LLM_MAC else "small networks"
        resolved = asked.resume.resolved_settings if asked.resume else {}
        threads = config["torch_threads"] or resolved.get("torch_threads") or tuning.threads(policy)
    torch.set_num_threads(threads)

    SETTINGS["CAPTURE_MODE"] = "no"
    SETTINGS["CONFIG"]["READ_ONLY_CONFIG"] = False
    experiment: Any = Experiment("pymarl", save_git_info=False)
    experiment.logger = logger
    experiment.captured_out_filter = output.take
    experiment.add_config(config)
    command = asked.command()

    @experiment.main
    def my_main(_run: Any, _config: dict[str, Any], _log: logging.Logger) -> float | None:
        run_config = deepcopy(_config)
        np.random.seed(run_config["seed"])
        torch.manual_seed(run_config["seed"])
        run_config["env_args"]["seed"] = run_config["seed"]
        _run.info["launch"] = provenance(command, host.name)
        try:
            if asked.teacher is not None:
                return loop.run(host, _run, run_config, _log, training=partial(Imitation, asked.teacher))
            if host.run is None or run_config["learner"] in registry.ENTRIES["learner"]:
                return loop.run(host, _run, run_config, _log, asked.resume)
            host.run(_run, run_config, _log)
            return None
        finally:
            _run.info["launch"] |= peak_memory()

    runs = FileObserver(Path(config["local_results_path"], "sacred", config["name"], path_component(map_name(config))))
    sacred_command = asked.options["COMMAND"]
    if sacred_command is None:
        experiment.observers.append(runs)
        if asked.teacher is None:
            experiment.observers.append(ProgressObserver(config["t_max"], actions_of_tests(config)))
        if asked.mongo:
            copy = MongoObserver(asked.mongo, lambda: Path(runs.dir) if runs.dir else None)
            experiment.observers.append(copy)
            closing.callback(copy.close)  # after the curve is drawn
        closing.callback(lambda: runs.close(output.text(), seconds=0))  # includes the closing lines
    started = time.time()
    try:
        with StopRequests():  # opened before the record exists, so that no stopped run is left as RUNNING
            run = experiment.run(sacred_command or experiment.default_command, options=options)
    except Stopped as stopped:
        again = f"it is saved: continue with {asked.resume_command(config, Path(stopped.saved).parent)}"
        print(f"{stopped}; {again if stopped.saved else 'no checkpoint was written'}", file=sys.stderr)
        return stopped.exit_code
    except NonFiniteError as error:
        print(f"error: {error}{f' The batch is in {error.dumped}.' if error.dumped else ''}", file=sys.stderr)
        return 1
    except SaveError as error:
        print(f"error: {error}; free some space or set on_save_error=warn.", file=sys.stderr)
        return 1
    finally:
        if (beats := getattr(experiment.current_run, "_heartbeat", None)) is not None:
            beats.stopped.set()  # a second signal may have come before Sacred did this
            beats.join()  # Sacred itself waits only 2 seconds
        runs.close(output.text())
    if sacred_command is None and runs.dir is not None:  # None with Sacred's --unobserved
        of_run = (host.describe().removeprefix("Host: "), Path(runs.dir), command, started)
        with warn_on_failure("The summary could not be made", logger):
            imitated = asked.teacher is not None
            text = summarise_imitation(run.config, run.info, *of_run) if imitated else summarise(run.config, *of_run)
            print(f"\n{text}", flush=True)
    return 0


def _differences_from_paper(config: Mapping[str, Any]) -> list[str]:
    """Return log lines that say how a language model's run differs from the paper."""
    if config["mac"] != config_check.LLM_MAC:
        return []
    llm, name = config["llm"], config["name"]
    lines, small = [], []
    if not llm["pretrained"]:
        lines.append(f"{name} starts from random weights (llm.pretrained=False), as the paper's control does.")
    if llm["num_layers"]:
        small.append(f"only the first {llm['num_layers']} layers of {llm['model']} (llm.num_layers)")
    if llm["model"].startswith("tiny-"):
        small.append("a random language model without any knowledge (llm.model)")
    if config["prompt"]["style"] != "paper":
        small.append(f"the {config['prompt']['style']} prompt style (prompt.style)")
    if small:
        lines.append(f"{name} uses {' and '.join(small)}: sized for a small machine, not the paper's setting.")
    return lines


class _Stderr(logging.StreamHandler):
    """Log handler that looks up ``sys.stderr`` at each write, so that a run's record contains its log."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


def console_logger() -> logging.Logger:
    """Return our logger, which Sacred passes to the host. Libraries log only warnings."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    logger = logging.getLogger("lolm")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not logger.handlers:
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("[%(levelname)s %(asctime)s] %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
    return logger
