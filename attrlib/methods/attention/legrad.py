"""LeGrad: the gradient in the attention of every block, of the target that the head would predict from that block's own output."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.errors import LayerError, MethodError
from attrlib.methods.attention.base import AttentionMethod, derivatives
from attrlib.methods.attention.chain import INSTEAD
from attrlib.methods.attention.steps import Blocks
from attrlib.methods.base import METHODS, Passes
from attrlib.methods.context import AttributionContext
from attrlib.models import Classifier, Layer
from attrlib.models.attention import Attentions
from attrlib.models.modules.tracing import outputs
from attrlib.registry import Paper, param

LEGRAD = Paper(
    "Bousselham et al. 2025", "LeGrad: An Explainability Method for Vision Transformers via Feature Formation Sensitivity",
    "https://arxiv.org/abs/2404.03214",
)  # fmt: skip


@METHODS.register
@dataclass(frozen=True)
class LeGrad(AttentionMethod):
    """LeGrad: mean over blocks, heads and queries of relu(dy_b/dA_b), y_b the target predicted from the mean token after block b.

    y_b is what the final norm and the head make of the mean of all tokens after block b, in place of the tokens after the last block. If
    the head pools by attention with learned queries (SigLIP), y_b is what pooling and head make of the tokens themselves, and A_b is the
    attention of the pooling. Not defined if the tokens change between blocks (Swin, CaiT), as the head cannot read earlier ones.
    """

    name, family, paper = "LeGrad", "transformer", LEGRAD
    start: int = param(0, "First block to include, counted from 0", low=0, high=1000)

    def check_blocks(self, model: Classifier, blocks: Blocks) -> None:
        pooled = bool(blocks.steps[-1].latents)
        steps = blocks.steps[: len(blocks.steps) - pooled]
        if any(step.keys is not None or step.layout.shape[1:] != steps[0].layout.shape[1:] for step in steps) or not all(
            self._paths(blocks)
        ):
            raise MethodError(
                f"LeGrad lets the head read the output of every block, but those of {model.name} do not all return the same sequence of tokens "
                "as the last; use Chefer instead"
            )
        last = self._paths(blocks)[-1]
        try:
            cut = model.split(model.layer(last)).cut
        except LayerError:
            cut = False
        if not cut:
            raise MethodError(f"LeGrad needs a head that reads the last block alone, but paths of {model.name} bypass {last}; {INSTEAD}")

    def first(self, blocks: Blocks, layer: Layer) -> int:
        first, count = super().first(blocks, layer), len(self._paths(blocks))
        if first >= count:
            raise MethodError(
                f"LeGrad reads the outputs of blocks, and none of the {count} is downstream of {layer.name}; choose an earlier layer"
            )
        return first

    def tokens(self, context: AttributionContext, blocks: Blocks, first: int) -> Tensor:
        return torch.cat([self._some(context, rows, blocks, first) for rows in context.rows.split(context.chunk)])

    def _some(self, context: AttributionContext, rows: Tensor, blocks: Blocks, first: int) -> Tensor:
        paths, model = self._paths(blocks), context.classifier
        head = model.split(model.layer(paths[-1], (context.images.shape[2], context.images.shape[3])), context.images.shape[1:]).skipping(
            context.images
        )

        def predict(tokens: Tensor) -> Tensor:
            return model.outputs.logits(head.after(tokens, rows)).float()

        with torch.enable_grad(), Attentions() as seen, outputs(model.module, paths[first:]) as found:
            context.logits(context.inputs[rows].detach().requires_grad_(), rows)
        matrices = blocks.of(seen.matrices, first)
        maps = []
        for path, matrix in zip(paths[first:], matrices, strict=False):
            tokens = found[path].transpose(0, 1) if head.batch_dim else found[path]
            if blocks.steps[-1].latents:
                with torch.enable_grad(), Attentions() as pooling:
                    logits = predict(tokens.detach().requires_grad_())
                (slope,) = derivatives(logits, context.slopes(logits, rows), blocks.of(pooling.matrices, blocks.total - 1))
                # The head asks with learned queries.
                slope = blocks.steps[-1].rows(slope, blocks.read)
            else:
                with torch.enable_grad():
                    logits = predict(tokens.mean(1, keepdim=True).expand_as(tokens))
                (slope,) = derivatives(logits, context.slopes(logits, rows), [matrix], keep=True)
            maps.append(slope.relu().mean((1, 2)))
        return torch.stack(maps).mean(0)

    def _paths(self, blocks: Blocks) -> Sequence[str]:
        """Return the modules that return the tokens after each block."""
        return blocks.paths[: blocks.total - bool(blocks.steps[-1].latents)]

    def passes(self, layer: Layer) -> Passes:
        # The head for every block; one that pools by attention is about as large as a block.
        return Passes(gradient=2)
