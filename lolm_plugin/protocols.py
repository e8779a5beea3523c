"""Protocols of batches, loggers and controllers, so that modules need not import the host or higher layers."""

import logging
from collections.abc import Mapping
from typing import Any, Protocol, overload

from torch import Tensor


class Fields(Protocol):
    """Tensors [episodes, time, ...] by name."""

    def __getitem__(self, name: str, /) -> Tensor: ...


class Batch(Protocol):
    """The host's EpisodeBatch: whole episodes, padded with zeros to equal length."""

    batch_size: int
    max_seq_length: int
    scheme: Mapping[str, Mapping[str, Any]]
    data: Any  # ``transition_data``: name -> tensor

    @property
    def device(self) -> Any: ...
    @overload
    def __getitem__(self, item: str, /) -> Tensor: ...
    @overload
    def __getitem__(self, item: Any, /) -> "Batch": ...
    def to(self, device: Any) -> None: ...
    def update(self, data: Mapping[str, Any], bs: Any = ..., ts: Any = ..., mark_filled: bool = ...) -> None: ...
    def max_t_filled(self) -> Tensor: ...


class Logger(Protocol):
    """The host's logger of statistics. ``t`` is the environment step."""

    @property
    def console_logger(self) -> logging.Logger: ...
    def log_stat(self, key: str, value: Any, t: int) -> None: ...


class Mac(Protocol):
    """The part of a controller that a runner uses; see ``controllers.controller.Controller``."""

    def init_hidden(self, batch_size: int) -> None: ...
    def select_actions(self, ep_batch: Any, t_ep: int, t_env: int, bs: Any = ..., test_mode: bool = ...) -> Tensor: ...
