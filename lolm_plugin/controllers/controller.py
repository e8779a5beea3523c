"""The base of every controller: the host's contract, and what a policy-gradient learner needs beyond it."""

import weakref
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from lolm_plugin.checks import check_finite
from lolm_plugin.controllers.action_selector import KeyedActionSelector
from lolm_plugin.controllers.decision_log import DecisionLog
from lolm_plugin.controllers.decisions import Acting, Decisions, Evaluation
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.checks import FirstEpisodes, check_sizes
from lolm_plugin.protocols import Batch

D = TypeVar("D", bound=Decisions)


class Controller(Generic[D]):
    """Acts for all agents with one shared policy; subclasses say how a policy reads a batch.

    ``fields`` are the fields of a batch, as in its scheme, that training episodes are recorded in beside the host's:
    the log-probabilities of the actions taken and, for a policy that draws noise, the noise.
    """

    MEMORY_KEYS = "the network's widths"  # see ``memory.UsesMemory``
    agent: nn.Module

    def __init__(self, scheme: Mapping[str, Mapping], groups: Mapping[str, int], args: SimpleNamespace) -> None:
        self.layouts = build_layouts(args.env, args.env_args, args.n_agents, args.n_actions, args.layout)
        check_sizes(self.layouts, scheme, args.n_actions)
        self.first_episodes = FirstEpisodes(self.layouts, wanted=args.layout["probes"])
        self.args = args
        self.n_agents = args.n_agents
        self.device = torch.device(args.device)
        self.fields: dict[str, dict[str, Any]] = {"behaviour_log_probs": {"vshape": (1,), "group": "agents"}}
        self.action_selector = KeyedActionSelector(args, self.layouts.observation.n_base_actions)
        self._test_episodes = EpisodeNumbers()
        self._sampled_test = False
        self.decision_log = DecisionLog(args.decisions_file, self.layouts.observation)

    # The host's contract.

    def init_hidden(self, batch_size: int) -> None:
        """Start new episodes: a policy with memory forgets."""

    def select_actions(
        self, ep_batch: Batch, t_ep: int, t_env: int, bs: Any = slice(None), test_mode: bool = False
    ) -> Tensor:
        """Choose actions [len(bs), agents] for the running episodes ``bs`` at timestep ``t_ep``.

        In training, the ``fields`` of these episodes are written into ``ep_batch``.
        """
        self.first_episodes.check(ep_batch, t_ep, bs)
        available = ep_batch["avail_actions"][:, t_ep] > 0
        running = torch.zeros(ep_batch.batch_size, dtype=torch.bool, device=available.device)
        running[bs] = True
        obs = ep_batch["obs"][:, t_ep].where(running[:, None, None], 0.0)
        check_finite("obs", obs, t_env, ("episode", "agent", "number"), ep_batch)
        acting = self.act(ep_batch, t_ep, t_env, running, test_mode)
        log_probs = acting.log_probs.where(available & running[:, None, None], 0.0)  # elsewhere -inf is right
        check_finite("log_probs of the policy", log_probs, t_env, ("episode", "agent", "action"), ep_batch)
        episodes = self._test_episodes.of(ep_batch, t_ep) if test_mode else None
        actions = self.action_selector.select_action(
            acting.log_probs.exp(), available, t_env, test_mode, episodes, t_ep
        )
        if not test_mode:
            self._record(ep_batch, t_ep, bs, acting, actions)
        elif self.decision_log.wanted and not self._sampled_test:
            self.decision_log.write(ep_batch, t_ep, t_env, running, acting, actions)
        return actions[bs]

    def _record(self, batch: Batch, t: int, bs: Any, acting: Acting, actions: Tensor) -> None:
        values = {
            "behaviour_log_probs": acting.log_probs.gather(-1, actions.unsqueeze(-1)),
            "behaviour_noise": acting.noise,
        }
        for name, field in self.fields.items():
            # A teacher plays into the batch of the student, whose policy may draw other noise or none.
            if batch.scheme.get(name) == field and (value := values[name]) is not None:
                batch[name][bs, t] = value[bs]

    def begin_test(self, sampled: bool) -> None:
        """Start a test: ``sampled`` draws actions also where ``test_greedy`` is set, and writes no decisions."""
        self._test_episodes = EpisodeNumbers()
        self._sampled_test = sampled
        self.action_selector.test_greedy = self.args.test_greedy and not sampled

    def parameters(self) -> list[nn.Parameter]:
        """Return everything that is trained."""
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

    # What a policy-gradient learner needs.

    def act(self, ep_batch: Batch, t: int, t_env: int, running: Tensor, test_mode: bool) -> Acting:
        """Evaluate the policy at timestep ``t`` of the episodes ``running`` (bool [batch]).

        In the others action 0 is certain.
        """
        raise NotImplementedError

    def decisions(self, batch: Batch, valid: Tensor, t_env: int = 0) -> D:
        """Find the decisions of a batch within ``valid`` bool [batch, time], ready to evaluate."""
        raise NotImplementedError

    def microbatches(self, decisions: D, subset: Tensor) -> list[Tensor]:
        """Split ``subset`` int64 [n] of the decisions into parts that are evaluated one by one to save memory."""
        raise NotImplementedError

    def evaluate(self, decisions: D, subset: Tensor) -> Evaluation:
        """Evaluate the current policy on ``subset`` int64 [n] of the decisions."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what is trained, in groups for an optimiser: ``name``, ``params`` and ``lr``."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """Return the settings that the weights depend on beyond the shapes of their tensors, for checkpoints."""
        raise NotImplementedError

    def fixed_sizes(self) -> dict[str, int]:
        """Return the sizes of the map that the weights are tied to; empty if they play on any map."""
        return {}

    def ratio_tolerance(self) -> float:
        """Return how far from 1 ``ratio_epoch0`` may be; infinity if a setting makes it differ."""
        return 1e-2

    def use_less_memory(self) -> str | None:
        """Halve the microbatch; returns the new setting for the log, None if it cannot be smaller."""
        if self.args.microbatch <= 1:
            return None
        self.args.microbatch //= 2
        return f"microbatch={self.args.microbatch}"

    def resolved_settings(self) -> dict[str, Any]:
        """Return the values of ``auto`` settings, nested, where another value would change the last digits."""
        return {}

    def prepare(self, decisions: D) -> None:
        """Run before an update's first optimiser step. May reparametrise the policy; must not change its logits."""

    def transferred(self) -> None:
        """Run once after another run's policy has been loaded to start from."""

    def end_update(self) -> None:
        """Free what was kept from the rollout for an update that is over."""

    def pop_usage(self) -> dict[str, float]:
        """Return and reset the language model's usage: ``rows``, ``tokens``, ``seconds``; empty without one."""
        return {}

    def reference_states(self, decisions: D) -> Any:
        """Compute the hidden states of the frozen reference model for each decision (language models only)."""
        raise NotImplementedError

    def reference_logits(self, states: Any) -> Tensor:
        """Compute the reference's logits from some of these states, detached: [decisions, n_actions]."""
        raise NotImplementedError


class EpisodeNumbers:
    """Number the episodes of a test 0, 1, ... in the order of their batches, for draws that are keyed by the number."""

    def __init__(self) -> None:
        self._first = self._size = 0
        self._batch: Callable[[], Any] = lambda: None

    def of(self, batch: Batch, t_ep: int) -> range:
        """Return the numbers of the batch's episodes; call it at every timestep."""
        # A runner that replays lost episodes starts again at timestep 0 in the same batch.
        if t_ep == 0 and batch is not self._batch():
            self._first += self._size
            self._size, self._batch = batch.batch_size, weakref.ref(batch)
        return range(self._first, self._first + batch.batch_size)
