"""The attention of a model as steps among tokens, and the flow of attention back through them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.models import Layout


@dataclass(frozen=True)
class Step:
    """One attention matrix: which tokens it takes as queries and as keys.

    A step without `keys` is self-attention among all tokens, in order. Otherwise the rows of all windows of an image count as slots of
    queries, window by window, and the columns as slots of keys. Padding fills slots that belong to no token. If several tokens share a
    slot of keys, they were pooled to one key, and each receives an equal share of its attention.

    Attributes:
        layout: Layout of the tokens: prefix tokens and a grid of patches.
        keys: Slot of keys of each token (T,), -1 if it is no key.
        queries: Slot of queries of each token (T,), -1 if it is no query.
        windows: Number of matrices for one image.
        latents: Number of learned queries, which are no tokens of the image; they follow the others as tokens T, T + 1, ....
        merged: Token of this step that each token of the step before becomes a part of, -1 if of none; None if the tokens are the same.
    """

    layout: Layout
    keys: Tensor | None = None
    queries: Tensor | None = None
    windows: int = 1
    latents: int = 0
    merged: Tensor | None = None

    @property
    def count(self) -> int:
        """Return the number of tokens, with learned queries."""
        return self.layout.prefix + self.layout.height * self.layout.width + self.latents

    @property
    def asking(self) -> Tensor:
        """Return which tokens are queries (T,)."""
        return torch.ones(self.count, dtype=torch.bool) if self.queries is None else self.queries >= 0

    def rows(self, matrices: Tensor, tokens: Sequence[int]) -> Tensor:
        """Return the rows of some tokens as values for each token.

        Args:
            matrices: Values (N*windows,heads,queries,keys).
            tokens: The k tokens, all queries of this step.

        Returns:
            Values (N,heads,k,T), zero for tokens that are no key in the window of the row.
        """
        if self.keys is None or self.queries is None:
            return matrices[:, :, list(tokens)]
        count, size = matrices.shape[-2:]
        slots = self.queries[list(tokens)]
        window, row = slots.div(count, rounding_mode="floor"), slots % count
        picked = matrices.unflatten(0, (-1, self.windows))[:, window, :, row].permute(1, 2, 0, 3)
        whole = picked.new_zeros(*picked.shape[:3], self.windows, size)
        whole[:, :, torch.arange(len(slots)), window] = picked
        return self._to_tokens(whole.flatten(3))

    def back(self, rows: Tensor, matrix: Tensor, keep: float) -> Tensor:
        """Return what a share of the tokens after the step consists of, as a share of the tokens before it.

        A token that is a query becomes `keep` of itself and the tokens that it attends to; the others stay what they are.

        Args:
            rows: Shares (k,T) or (N,k,T) of the tokens after the step.
            matrix: Weights (N*windows,queries,keys).
            keep: Weight of the token itself.
        """
        if self.keys is None or self.queries is None:
            return rows @ matrix + keep * rows
        by_image = matrix.unflatten(0, (-1, self.windows))
        count, asking = matrix.shape[-2], self.asking.to(rows.device)
        rows = rows.expand(len(by_image), *rows.shape[-2:])
        asked = rows.new_zeros(*rows.shape[:2], self.windows * count)
        asked[..., self.queries[asking]] = rows[..., asking]
        received = asked.unflatten(-1, (self.windows, count)).transpose(1, 2) @ by_image
        kept = rows * torch.where(asking, keep, 1.0)
        return kept + self._to_tokens(received.transpose(1, 2).flatten(2))

    def before(self, rows: Tensor) -> Tensor:
        """Return shares (...,T) of this step's tokens as shares of the tokens of the step before; merged tokens have equal parts."""
        return rows if self.merged is None else _shared(rows, self.merged)

    def _to_tokens(self, slots: Tensor) -> Tensor:
        assert self.keys is not None, "only for steps with slots"
        return _shared(slots, self.keys)


def _shared(values: Tensor, slots: Tensor) -> Tensor:
    """Return the value of each token's slot (...,T), divided by the number of tokens that share it; zero without a slot."""
    used = slots >= 0
    sizes = slots[used].bincount(minlength=values.shape[-1])
    share = torch.where(used, 1 / sizes[slots.clamp_min(0)].clamp_min(1), 0.0)
    return values[..., slots.clamp_min(0)] * share.to(values)


@dataclass(frozen=True)
class Blocks:
    """The attention of a model downstream of a layer.

    Attributes:
        first: The first of these blocks, counted from 0 in the whole network.
        steps: The step of every block of the whole network.
        read: Tokens whose state after the last block the logits depend on: the class token, with the distillation token if there is
            one, all patches, or the learned queries of a pooling.
        unused: Number of attention matrices after the blocks that the logits do not depend on, such as that of a pooling which a
            classification head leaves aside.
        paths: Module whose output is that of each block, if the tokens are the same in all blocks; empty where there is none.
    """

    first: int
    steps: tuple[Step, ...]
    read: tuple[int, ...]
    unused: int = 0
    paths: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Return the number of blocks in the whole network."""
        return len(self.steps)

    def of(self, matrices: Sequence[Tensor], first: int) -> Sequence[Tensor]:
        """Return the matrices of the blocks from `first` on, among all matrices of a forward pass."""
        end = len(matrices) - self.unused
        return matrices[end - (self.total - first) : end]

    def asked(self, block: int) -> tuple[int, ...]:
        """Return the tokens that are read if they are queries in a block, else all that are."""
        asking = self.steps[block].asking
        same = self.steps[block].count == self.steps[-1].count and all(bool(asking[t]) for t in self.read)
        return self.read if same else tuple(asking.nonzero().flatten().tolist())


def flow(matrices: Sequence[Tensor], blocks: Blocks, first: int, keep: float = 1.0) -> Tensor:
    """Return how much the tokens that are read receive from each token of a block (N,T).

    These are rows of the product of M + `keep` I over the blocks, the last block leftmost, averaged over the tokens that are read.
    Between blocks with different tokens stands the matrix that averages merged tokens.

    Args:
        matrices: Weights M (N*windows,queries,keys) of each block from `first` on.
        blocks: The blocks.
        first: First block to include; the result is for its tokens.
        keep: Weight of the residual connection.
    """
    steps = blocks.steps[first:]
    rows = torch.eye(steps[-1].count, dtype=matrices[0].dtype, device=matrices[0].device)[list(blocks.read)]
    if any(step.keys is not None for step in steps):
        # The average is as good now as at the end, and windows make long rows.
        rows = rows.mean(0, keepdim=True)
    for k in reversed(range(len(steps))):
        rows = steps[k].back(rows, matrices[k], keep)
        rows = steps[k].before(rows) if k else rows
    return rows.mean(-2)
