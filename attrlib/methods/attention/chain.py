"""Steps of attention among changing tokens: windows and shifts, merged patches, class attention, pooled keys, learned queries.

Which token each row and column of an attention matrix belongs to is measured by gradients (`provenance`), not read off the names of
modules. So is what happens to the tokens between two blocks: they may stay as they are, or be merged to coarser ones. If they are mixed
in any other way, attention alone does not show what a token is made of, and the methods are refused.

Windows are extended to a matrix among all tokens that is zero outside of the windows, as the authors of Chefer advise for Swin
(github.com/hila-chefer/Transformer-MM-Explainability, issue 4). Tokens that are merged count as averaged.
"""

from dataclasses import replace

import torch
from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.attention.provenance import fed, slots_of
from attrlib.methods.attention.steps import Step
from attrlib.methods.attention.tracing import ModuleCall, Trace
from attrlib.models import Layout
from attrlib.models.attention import Product

INSTEAD = "use a gradient, CAM or perturbation method instead"


def find_steps(name: str, trace: Trace, blocks: range) -> tuple[Step, ...]:
    """Return the steps of some blocks of a model.

    Args:
        name: Name of the model, for messages.
        trace: Forward pass of a probe image.
        blocks: Indices of their attention matrices.

    Raises:
        MethodError: If the tokens of a block cannot be followed; the message gives the reason.
    """
    steps: list[Step] = []
    last: tuple[ModuleCall, Product] | None = None
    for block in blocks:
        found = _Site.at(name, trace, block)
        step, anchor = found.step()
        if steps:
            assert last is not None, "set with the first step"
            step = _linked(name, trace, block, (steps[-1], last[1]), (step, anchor))
        steps.append(step)
        last = anchor, found.attended
    return tuple(steps)


class _Site:
    """One attention matrix, with the products around it."""

    def __init__(self, name: str, trace: Trace, block: int, scores: Product, attended: Product):
        self.name, self.trace, self.block, self.scores, self.attended = name, trace, block, scores, attended
        self.matrix = trace.matrices[block]
        self.windows, self.rows, self.columns = len(self.matrix), self.matrix.shape[-2], self.matrix.shape[-1]

    @classmethod
    def at(cls, name: str, trace: Trace, block: int) -> "_Site":
        scores, attended = trace.operands.scores(block), trace.operands.attended(block)
        matrix = trace.matrices[block]
        if scores is None or attended is None or matrix.ndim > 4 or attended.right.shape[:-2] != matrix.shape[:-2]:
            raise MethodError(
                f"the attention of block {block} of {name} is not softmax(Q K) V with keys and values of its own for each head, so that its "
                f"tokens cannot be identified; {INSTEAD}"
            )
        return cls(name, trace, block, scores, attended)

    def step(self) -> tuple[Step, ModuleCall]:
        """Return the step among the tokens of the last layer whose positions are its keys, and the call of this layer."""
        keys, queries = self._slots(self.columns), self._slots(self.rows)
        for call in self.trace.layers_before(self.block):
            assert call.output is not None, "these are layers"
            assert call.layout is not None, "these are layers"
            found = slots_of(self.attended.right, keys, call.output, call.layout)
            if found is None or bool((found[call.layout.prefix :] < 0).any()):
                continue
            same = slots_of(self.scores.right.transpose(-2, -1), keys, call.output, call.layout)
            asking = slots_of(self.scores.left, queries, call.output, call.layout)
            if same is not None and torch.equal(same, found) and asking is not None:
                return self._step(call.layout, found, asking), call
        raise MethodError(
            f"the keys of block {self.block} of {self.name} are not the positions of a layer (but channels, averages or overlapping patches, "
            f"for example), so that its attention has no place in the image; {INSTEAD}"
        )

    def _slots(self, count: int) -> Tensor:
        """Return the numbers of rows or columns, in a shape that broadcasts against queries or keys (windows,[heads,]count,d)."""
        numbers = torch.arange(self.windows * count, device=self.matrix.device).view(self.windows, count, 1)
        return numbers[:, None] if self.matrix.ndim == 4 else numbers

    def _step(self, layout: Layout, keys: Tensor, queries: Tensor) -> Step:
        patches = queries[layout.prefix :]
        if bool((queries < 0).all()):
            if self.windows > 1 or self._asks_for_the_image():
                raise MethodError(f"the queries of block {self.block} of {self.name} are not the tokens that it attends to; {INSTEAD}")
            none = keys.new_full((self.rows,), -1)
            learned = torch.arange(self.rows, device=keys.device)
            return Step(layout, torch.cat([keys, none]), torch.cat([queries.new_full(queries.shape, -1), learned]), 1, self.rows)
        used = queries[queries >= 0]
        if len(used.unique()) < len(used) or (bool((patches < 0).any()) and bool((patches >= 0).any())):
            raise MethodError(f"block {self.block} of {self.name} has fewer queries than tokens; {INSTEAD}")
        order = torch.arange(len(keys), device=keys.device)
        plain = self.windows == 1 and self.rows == self.columns == len(keys) and torch.equal(keys, order) and torch.equal(queries, order)
        return Step(layout) if plain else Step(layout, keys, queries, self.windows)

    def _asks_for_the_image(self) -> bool:
        query = self.scores.left
        if not query.requires_grad:
            return False
        (gradient,) = torch.autograd.grad(query.sum(), self.trace.leaf, retain_graph=True, allow_unused=True)
        return gradient is not None and bool(gradient.any())


def _linked(name: str, trace: Trace, block: int, before: tuple[Step, Product], after: tuple[Step, ModuleCall]) -> Step:
    """Return a step with the tokens of the step before that its tokens consist of.

    Args:
        name: Name of the model.
        trace: Forward pass of a probe image.
        block: The block of the step.
        before: The step before, and the product of its attention and values.
        after: The step, and the layer whose positions are its tokens.

    Raises:
        MethodError: If tokens do not stay what they are, or are merged, between the two blocks.
    """
    (previous, attended), (step, anchor) = before, after
    if previous.latents:
        raise MethodError(f"{name} attends again after the attention pooling of block {block - 1}; {INSTEAD}")
    assert anchor.output is not None, "the anchor is a layer"
    assert anchor.layout is not None, "the anchor is a layer"
    numbers = _numbered(anchor.output, anchor.layout)
    order = torch.arange(previous.count, device=numbers.device)
    merged = order if _grid(previous.layout) == _grid(step.layout) else _merged(name, trace, block, previous, anchor, numbers)
    written = fed(anchor.output, numbers, attended.result, _by_rows)
    asking = previous.asking.to(numbers.device)
    slots = order[asking] if previous.queries is None else previous.queries[asking]
    if written is not None:
        found = written[slots]
        if bool(((found == merged[asking]) | (found < 0)).all()):
            same = previous.count == step.count and torch.equal(merged, order)
            return step if same else replace(step, merged=merged)
    raise MethodError(
        f"{name} mixes its tokens between blocks {block - 1} and {block} other than by attention (by convolutions, for example), so that "
        f"attention alone does not show what they are made of; {INSTEAD}"
    )


def _merged(name: str, trace: Trace, block: int, previous: Step, anchor: ModuleCall, numbers: Tensor) -> Tensor:
    """Return the token of the anchor that each token of the block before becomes a part of."""
    assert anchor.output is not None, "the anchor is a layer"
    for call in trace.layers_before(block):
        if call.layout is None or call.output is None or _grid(call.layout) != _grid(previous.layout):
            continue
        found = slots_of(anchor.output, numbers, call.output, call.layout)
        if found is not None and not bool((found[previous.layout.prefix :] < 0).any()):
            return found
    raise MethodError(
        f"the tokens of block {block} of {name} do not consist of whole tokens of block {block - 1} (patches overlap, for example), so "
        f"that attention cannot be followed through both; {INSTEAD}"
    )


def _grid(layout: Layout) -> tuple[int, int, int]:
    return layout.height, layout.width, layout.prefix


def _numbered(values: Tensor, layout: Layout) -> Tensor:
    """Return the number of each token, in a shape that broadcasts against a layer's output for one image."""
    if layout.kind == "tokens":
        count = layout.prefix + layout.height * layout.width
        # The batch may be the second dimension.
        return torch.arange(count, device=values.device).view(*values.shape[:2], 1)
    grid = torch.arange(layout.height * layout.width, device=values.device).view(1, 1, layout.height, layout.width)
    return layout.native(grid)


def _by_rows(values: Tensor) -> Tensor:
    """Return attended values (windows,[heads,]T,d) as one row per query."""
    return (values.transpose(1, 2).flatten(2) if values.ndim == 4 else values).flatten(0, 1)
