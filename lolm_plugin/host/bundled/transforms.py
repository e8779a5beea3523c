"""Transforms that derive one field of a batch from another."""

import torch


class OneHot:
    """Turns integers ``[..., 1]`` in ``0..out_dim-1`` into one-hot float32 ``[..., out_dim]``."""

    def __init__(self, out_dim: int) -> None:
        self.out_dim = out_dim

    def transform(self, tensor: torch.Tensor) -> torch.Tensor:
        """One-hot rows of ``tensor`` ``[..., 1]``: float32 ``[..., out_dim]``."""
        return torch.nn.functional.one_hot(tensor.squeeze(-1).long(), self.out_dim).float()

    def infer_output_info(self, vshape: tuple[int, ...], dtype: torch.dtype) -> tuple[tuple[int], torch.dtype]:
        """Shape and dtype of what ``transform`` returns for one entry of shape ``vshape``."""
        return (self.out_dim,), torch.float32
