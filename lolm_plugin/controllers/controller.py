"""What every controller of ours is: the host's contract, and what a policy-gradient learner needs beyond it."""

import logging
import weakref
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

import torch
from torch import Tensor, nn

from lolm_plugin.controllers.action_selector import KeyedActionSelector
from lolm_plugin.controllers.decision_log import DecisionLog
from lolm_plugin.errors import ConfigError
from lolm_plugin.finite import check_finite
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.checks import FirstEpisodes, check_sizes

Result = TypeVar("Result")


class AgentSteps(Protocol):
    """The decisions of a batch: every agent-step with at least two available actions, in a fixed order.

    Dead agents (one action) and padding (none) are not among them: their action is forced, so their
    log-probability and entropy are 0 and they have no gradient.
    """

    index: tuple[Tensor, Tensor, Tensor]  # episode, timestep, agent; each int64 [rows]
    available: Tensor  # bool [rows, n_actions]

    def __len__(self) -> int: ...

    @property
    def together(self) -> Tensor | None:
        """int64 [rows]: decisions with the same number are learned from together; None: each by itself.

        Of a policy with memory, whole episodes: each step needs those before it.
        """
        ...


class Evaluation(NamedTuple):
    """What the current policy says about some decisions, with gradient."""

    logits: Tensor  # [rows, n_actions], unavailable actions not yet masked
    losses: Mapping[str, Tensor] = {}  # name -> [rows], weighted: what is learned beside the policy's objective
    stats: Mapping[str, Tensor] = {}  # name -> [rows], without gradient: logged as means


class Acting(NamedTuple):
    """What the policy says about the current step of every episode, without gradient."""

    log_probs: Tensor  # [batch, agents, actions], -inf where unavailable
    attention: Tensor | None = None  # [batch, agents, entities]: self, other allies, enemies
    subtask: Tensor | None = None  # int64 [batch, agents]


class Controller:
    """Acts for all agents with one shared policy; subclasses say how a policy reads a batch."""

    MEMORY_KEYS = "the network's widths"  # what to set to less, for a sentence
    agent: nn.Module

    def __init__(self, scheme: Mapping[str, Mapping], groups: Mapping[str, int], args: SimpleNamespace) -> None:
        self.layouts = build_layouts(args.env, args.env_args, args.n_agents, args.n_actions, args.layout)
        check_sizes(self.layouts, scheme, args.n_actions)
        self.first_episodes = FirstEpisodes(self.layouts, wanted=args.layout["probes"])
        self.args = args
        self.n_agents = args.n_agents
        self.device = torch.device(args.device)
        self.action_selector = KeyedActionSelector(args, self.layouts.observation.n_base_actions)
        self._test_episodes = EpisodeNumbers()
        self._sampled_test = False
        self.decision_log = DecisionLog(args.decisions_file, self.layouts.observation)
        # Log-probabilities of the actions taken in the last training rollout, [batch, time, agents].
        self.behaviour_log_probs: Tensor | None = None

    # The host's contract.

    def init_hidden(self, batch_size: int) -> None:
        """New episodes begin; a policy with memory forgets."""

    def select_actions(
        self, ep_batch: Any, t_ep: int, t_env: int, bs: Any = slice(None), test_mode: bool = False
    ) -> Tensor:
        """Actions [len(bs), agents] of the running episodes ``bs`` at timestep ``t_ep``."""
        self.first_episodes.check(ep_batch, t_ep, bs)
        available = ep_batch["avail_actions"][:, t_ep] > 0
        running = torch.zeros(ep_batch.batch_size, dtype=torch.bool, device=available.device)
        running[bs] = True
        seen = ep_batch["obs"][:, t_ep].where(running[:, None, None], 0.0)
        check_finite("obs", seen, t_env, ("episode", "agent", "number"), ep_batch)
        acting = self.act(ep_batch, t_ep, t_env, running, test_mode)
        asked = acting.log_probs.where(available & running[:, None, None], 0.0)  # elsewhere -inf is right
        check_finite("log_probs of the policy", asked, t_env, ("episode", "agent", "action"), ep_batch)
        episodes = self._test_episodes.of(ep_batch, t_ep) if test_mode else None
        actions = self.action_selector.select_action(
            acting.log_probs.exp(), available, t_env, test_mode, episodes, t_ep
        )
        if not test_mode:
            self._remember(acting.log_probs, actions, t_ep, ep_batch.max_seq_length, bs)
        elif self.decision_log.wanted and not self._sampled_test:
            self.decision_log.write(ep_batch, t_ep, t_env, running, acting, actions)
        return actions[bs]

    def begin_test(self, sampled: bool) -> None:
        """Start a test: ``sampled`` draws actions also where ``test_greedy`` is set, and writes no decisions."""
        self._test_episodes = EpisodeNumbers()
        self._sampled_test = sampled
        self.action_selector.test_greedy = self.args.test_greedy and not sampled

    def forward(self, ep_batch: Any, t: int, test_mode: bool = False) -> Tensor:
        """Probabilities [batch, agents, actions] at one timestep, without gradient; learners call ``evaluate``."""
        running = torch.ones(ep_batch.batch_size, dtype=torch.bool, device=ep_batch["avail_actions"].device)
        # As in a test, whatever is asked: nothing is played, so nothing is to be remembered.
        return self.act(ep_batch, t, 0, running, test_mode=True).log_probs.exp()

    def parameters(self) -> list[nn.Parameter]:
        """Everything that is trained."""
        return [parameter for group in self.parameter_groups() for parameter in group["params"]]

    def cuda(self) -> None:
        """Move to the GPU."""
        self.agent.cuda()

    def save_models(self, path: str) -> None:
        """Write the policy's weights into a folder, as safetensors."""
        raise NotImplementedError

    def load_models(self, path: str) -> None:
        """Load strictly what ``save_models`` wrote; a missing or unexpected tensor is a ConfigError."""
        raise NotImplementedError

    def __deepcopy__(self, memo: dict) -> NoReturn:
        raise ConfigError(
            f"learner={self.args.learner} copies its controller, which would put a second policy into memory; "
            "set learner=mappo_learner, which needs no copy."
        )

    # What a policy-gradient learner needs.

    def act(self, ep_batch: Any, t: int, t_env: int, running: Tensor, test_mode: bool) -> Acting:
        """The policy at timestep ``t`` of the episodes ``running`` (bool [batch]); elsewhere action 0 is certain."""
        raise NotImplementedError

    def agent_steps(self, batch: Any, valid: Tensor, t_env: int = 0) -> AgentSteps:
        """The decisions of a batch within ``valid`` [batch, time], ready to evaluate."""
        raise NotImplementedError

    def microbatches(self, steps: AgentSteps, rows: Tensor) -> list[Tensor]:
        """Cut ``rows`` [n] of the steps into groups that are evaluated one after the other to save memory."""
        raise NotImplementedError

    def evaluate(self, steps: AgentSteps, rows: Tensor) -> Evaluation:
        """The current policy on ``rows`` [n] of the steps."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained, in groups for an optimiser: ``name``, ``params`` and ``lr``."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """The settings that a checkpoint's weights only make sense with, beyond the shapes of its tensors."""
        raise NotImplementedError

    def map_bound(self) -> dict[str, int]:
        """The sizes of the map that the weights are tied to; empty where they play on any map."""
        return {}

    def ratio_tolerance(self) -> float:
        """How far from 1 ``ratio_epoch0`` may be: beyond rounding, infinity where a setting makes it another."""
        return 1e-2

    def fitting(self, work: Callable[[], Result]) -> Result:
        """What ``work`` returns, tried again in smaller parts while the GPU's memory does not hold it.

        ``work`` must be free to start over; the parts change no number. Raises ConfigError when none are smaller.
        """
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                if (smaller := self.use_less_memory()) is None:
                    raise ConfigError(
                        f"The memory does not hold the smallest part of a batch ({str(error).splitlines()[0]}); set "
                        f"{self.MEMORY_KEYS}, or batch_size_run to less; `lolm doctor --config=... "
                        "--env-config=...` says what a run needs."
                    ) from error
            # Out here nothing refers to what the failed try has allocated.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            logging.getLogger("lolm").warning("Out of memory: going on with %s, which changes no result.", smaller)

    def use_less_memory(self) -> str | None:
        """Halve what is evaluated at once; says to what, None where it is the least already."""
        if self.args.microbatch <= 1:
            return None
        self.args.microbatch //= 2
        return f"microbatch={self.args.microbatch}"

    def settled(self) -> dict[str, Any]:
        """What ``auto`` has come to in the configuration, nested, where another choice would change the last digits."""
        return {}

    def prepare(self, steps: AgentSteps) -> None:
        """Run before an update's first optimiser step. May reparametrise the policy; must not change its logits."""

    def transferred(self) -> None:
        """Run once another run's policy has been loaded to begin with."""

    def end_update(self) -> None:
        """Free what was kept from play for an update that is over."""

    def take_usage(self) -> dict[str, float]:
        """What the language model was used for since the last call: ``rows``, ``tokens``, ``seconds``."""
        return {}

    def reference_states(self, steps: AgentSteps) -> Any:
        """What the frozen pretrained self that only a language model has makes of the steps; indexed by row."""
        raise NotImplementedError

    def reference_logits(self, states: Any) -> Tensor:
        """What the current head makes of such states, detached: [rows, n_actions]."""
        raise NotImplementedError

    def _remember(self, log_probs: Tensor, actions: Tensor, t_ep: int, steps: int, bs: Any) -> None:
        shape = (actions.shape[0], steps, self.n_agents)
        if self.behaviour_log_probs is None or self.behaviour_log_probs.shape != shape:
            self.behaviour_log_probs = torch.zeros(shape, device=actions.device)
        if t_ep == 0:  # of these episodes; others of the batch may have been played before
            self.behaviour_log_probs[bs] = 0.0
        self.behaviour_log_probs[bs, t_ep] = log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)[bs]


class EpisodeNumbers:
    """Number the episodes of a test 0, 1, ... in the order of their batches, for draws that are keyed by the number."""

    def __init__(self) -> None:
        self._first = self._rows = 0
        self._batch: Callable[[], Any] = lambda: None

    def of(self, batch: Any, t_ep: int) -> range:
        """Return the numbers of the batch's episodes; call it at every timestep."""
        # A runner that replays lost episodes starts again at timestep 0 in the same batch.
        if t_ep == 0 and batch is not self._batch():
            self._first += self._rows
            self._rows, self._batch = batch.batch_size, weakref.ref(batch)
        return range(self._first, self._first + batch.batch_size)


def decisions(batch: Any, valid: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Where a batch within ``valid`` [batch, time] has something to decide: ``AgentSteps.index, .available``."""
    available = batch["avail_actions"][:, : valid.shape[1]] > 0
    episode, step, agent = torch.nonzero((available.sum(-1) > 1) & valid.unsqueeze(-1), as_tuple=True)
    return (episode, step, agent), available[episode, step, agent]


def certain_log_probs(available: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Log-probabilities [..., actions] that are right where nothing is to decide, and the index of the other rows.

    ``available`` is bool [..., actions]. The only available action is certain; where there is none (padding),
    action 0 is.
    """
    forced = ~available.any(-1)
    available = torch.cat([available[..., :1] | forced.unsqueeze(-1), available[..., 1:]], dim=-1)
    log_probs = torch.full(available.shape, -torch.inf, device=available.device)
    log_probs[available] = 0.0
    return log_probs, torch.nonzero(available.sum(-1) > 1, as_tuple=True)
