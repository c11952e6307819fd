"""TIS and ViT-CX against plain NumPy loops, SciPy and scikit-learn, and where they are refused."""

import attrlib  # before timm: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.cluster.vq import kmeans2
from sklearn.cluster import AgglomerativeClustering
from support import method_nets
from support.method_nets import CLASSES, TARGETS, made, maps, pictures
from support.nets import Transformer
from support.numbers import SEED, close
from torch import Tensor, nn

from attrlib.errors import MethodError
from attrlib.methods import AttributionContext, attribute_all, create
from attrlib.methods.token_masks import clusters
from attrlib.methods.token_sampling import centres, find_stage
from attrlib.models.cells import grid_view
from attrlib.specs import MethodSpec

Model = attrlib.Classifier


def block_outputs(net: nn.Module, image: Tensor) -> list[np.ndarray]:
    """The outputs (T,C) of all blocks of timm's or our own transformer."""
    found: list[np.ndarray] = []
    handles = [block.register_forward_hook(lambda _m, _a, output: found.append(output[0].numpy())) for block in net.blocks]  # type: ignore[union-attr]
    with torch.no_grad():
        net(image)
    for handle in handles:
        handle.remove()
    return found


# TIS -----------------------------------------------------------------------------------------------------------------------


def probability_of_some(net: nn.Module, image: Tensor, tokens: np.ndarray, target: int) -> float:
    """The probability when a timm ViT gets the class token and some patches only, written out from its modules."""
    with torch.no_grad():
        x = net._pos_embed(net.patch_embed(image))  # type: ignore[operator]
        x = torch.cat([x[:, :1], x[:, 1:][:, tokens]], 1)
        for block in net.blocks:  # type: ignore[union-attr]
            x = block(x)
        return float(net.head(net.norm(x)[:, 0]).softmax(1)[0, target])  # type: ignore[operator]


@pytest.mark.parametrize("keep", [0.5, 0.2])
def test_tis_at_input_is_a_plain_loop_over_samples_of_the_embedded_tokens(keep: float) -> None:
    model, images = method_nets.model("vit_tiny"), pictures(2, 64)
    net, samples = model.module, 6
    found = maps(model, images, "TIS", "Input", samples=samples, keep=keep)
    generator = None
    for k, image in enumerate(images.split(1)):
        vectors = np.concatenate([output[1:] for output in block_outputs(net, image)], 1).T
        with model.session():
            generator = AttributionContext(model, model.layer("Input"), image, torch.zeros(1, dtype=torch.long)).generator("tis")
        start = vectors[torch.randperm(len(vectors), generator=generator)[:samples].numpy()]
        means = kmeans2(vectors.astype(float), start.astype(float), iter=50, minit="matrix")[0]
        values, counts = np.zeros(16), np.zeros(16)
        for mean in means:
            tokens = np.argsort(-mean)[: int(keep * 16)]
            values[tokens] += probability_of_some(net, image, tokens, TARGETS[k])
            counts[tokens] += 1
        expected = (values / counts.clip(1)).reshape(4, 4).repeat(16, 0).repeat(16, 1)
        assert close(found[k, 0], torch.from_numpy(expected), 1e-4)
    assert SEED or float(found.std()) > 1e-3


def test_tis_at_a_block_leaves_out_its_outputs_and_reads_the_blocks_from_there_on() -> None:
    model, images = method_nets.model("vit_tiny"), pictures(1, 64)
    net = model.module
    found = maps(model, images, "TIS", "blocks.2", targets=[1], samples=5)
    outputs = block_outputs(net, images)[2:]
    vectors = np.concatenate([output[1:] for output in outputs], 1).T
    with model.session():
        generator = AttributionContext(model, model.layer("Input"), images, torch.zeros(1, dtype=torch.long)).generator("tis")
    start = vectors[torch.randperm(len(vectors), generator=generator)[:5].numpy()]
    means = kmeans2(vectors.astype(float), start.astype(float), iter=50, minit="matrix")[0]
    values, counts = np.zeros(16), np.zeros(16)
    for mean in means:
        tokens = np.argsort(-mean)[:8]
        with torch.no_grad():
            kept = torch.from_numpy(outputs[0][np.concatenate([[0], 1 + tokens])])[None]
            logits = net.head(net.norm(net.blocks[3](kept))[:, 0])  # type: ignore[operator,index]
        values[tokens] += float(logits.softmax(1)[0, 1])
        counts[tokens] += 1
    assert close(found[0, 0], torch.from_numpy((values / counts.clip(1)).reshape(4, 4)), 1e-4)


def test_centres_are_those_of_scipy() -> None:
    vectors = torch.randn(200, 6, generator=torch.Generator().manual_seed(SEED))
    start = vectors[torch.randperm(200, generator=torch.Generator().manual_seed(3))[:7]]
    expected = kmeans2(vectors.double().numpy(), start.double().numpy(), iter=50, minit="matrix")[0]
    assert close(centres(vectors, 7, torch.Generator().manual_seed(3)), torch.from_numpy(expected), 1e-4)


def test_there_are_at_most_as_many_masks_as_channels_and_each_costs_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    own = AttributionContext._logits

    def counted(context: AttributionContext, inputs: Tensor, owners: Tensor) -> Tensor:
        rows.append(len(owners))
        return own(context, inputs, owners)

    monkeypatch.setattr(AttributionContext, "_logits", counted)
    model = attrlib.wrap_model(made(Transformer, 1, 3), (8, 12))
    for spec, passes in (("TIS:samples=10", 10), ("TIS:samples=8000", 3 * 8)):
        rows.clear()
        attribute_all(model, [MethodSpec.parse(spec)], pictures(1, 8, 12), [0, 1, 2], owners=[0, 0, 0])
        assert sum(rows) == passes


def timm_net(name: str, size: int, **options: object) -> Model:
    return attrlib.wrap_model(made(timm.create_model, name, img_size=size, num_classes=CLASSES, **options), size)


def test_the_tokens_are_left_out_where_they_enter_the_first_block() -> None:
    model = method_nets.model("vit_tiny")
    stage = find_stage(model, model.layer("Input"), (64, 64))
    assert stage.blocks == ("blocks.0", "blocks.1", "blocks.2", "blocks.3")
    assert stage.place.path == "norm_pre", "the last module before the blocks"
    plain = attrlib.wrap_model(made(Transformer, 1, 3), (8, 12))
    assert find_stage(plain, plain.layer("Input"), (8, 12)).place.path == "blocks.0", "no module returns all tokens before"
    registers = timm_net("vit_small_patch14_reg4_dinov2", 56, depth=2)
    assert find_stage(registers, registers.layer("Input"), (56, 56)).place.layout.prefix == 5


class Positions(nn.Module):
    """Adds a position embedding in every block, so that tokens are told by their place."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Transformer(1, 2)
        self.blocks = nn.ModuleList(Moved() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.net.patch(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.net.head(x.tanh().mean(1))


class Moved(nn.Module):
    """A block that also runs with fewer tokens, with the embeddings of the first places."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(1, 100, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.places[:, : x.shape[1]]


@pytest.mark.parametrize(
    ("model", "layer", "reason"),
    [
        (
            lambda: method_nets.model("functional"),
            "Input",
            "TIS leaves out tokens, but wrapped:Functional has no blocks that take a sequence of tokens",
        ),
        (lambda: method_nets.model("functional"), "Middle", "TIS leaves out tokens, but Middle of .* is not a sequence of tokens"),
        (lambda: method_nets.model("channels_last"), "Final", "is not a sequence of tokens"),
        (lambda: method_nets.model("vit_tiny"), "blocks.0.attn", "by their place in the sequence|does not run with a part"),
        (lambda: attrlib.wrap_model(made(Positions), 16), "Input", "identifies those of blocks.0 by their place in the sequence"),
        (lambda: timm_net("eva02_tiny_patch14_224", 56, depth=2), "Input", "by their place in the sequence|does not run with a part"),
        (lambda: timm_net("beit_base_patch16_224", 32, depth=2, embed_dim=48, num_heads=2), "Input", "does not run with a part|place in"),
        (
            lambda: attrlib.wrap_model(made(timm.create_model, "mixer_s32_224", img_size=64, num_classes=CLASSES), 64),
            "Input",
            "place in the sequence|does not run with a part",
        ),
    ],
    ids=["cnn", "feature map", "NHWC", "inside a block", "positions in every block", "rotary", "relative", "mixer"],
)
def test_tis_is_refused_where_tokens_cannot_be_left_out(model: object, layer: str, reason: str) -> None:
    classifier = model()  # type: ignore[operator]
    with pytest.raises(MethodError, match=reason):
        create(MethodSpec("TIS")).check(classifier, classifier.layer(layer))


def test_tis_is_refused_on_a_cell_of_a_grid() -> None:
    view = grid_view(method_nets.model("vit_tiny"), "difull", 2)
    with pytest.raises(MethodError, match="each grid cell has its own"):
        create(MethodSpec("TIS")).check(view, view.layer("Input"))


# ViT-CX --------------------------------------------------------------------------------------------------------------------


def scaled(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


@pytest.mark.parametrize("distance", [0.05, 0.1, 0.2])
def test_clusters_are_those_of_scikit_learn(distance: float) -> None:
    base = torch.rand(6, 5, 7, generator=torch.Generator().manual_seed(SEED))
    noise = torch.rand(40, 5, 7, generator=torch.Generator().manual_seed(SEED + 1))
    channels = torch.cat([base[torch.arange(40) % 6] + 0.3 * noise, torch.full((2, 5, 7), 0.4)])
    masks = np.stack([scaled(c.double().numpy()) for c in channels[:40]]).reshape(40, -1)
    unit = masks / np.linalg.norm(masks, axis=1, keepdims=True)
    model = AgglomerativeClustering(None, metric="precomputed", linkage="complete", distance_threshold=distance).fit(1 - unit @ unit.T)
    expected = torch.from_numpy(np.stack([masks[model.labels_ == k].sum(0) for k in range(model.n_clusters_)]))
    found = clusters(channels, distance).flatten(1)
    assert close(found[found.sum(1).argsort()], expected[expected.sum(1).argsort()], 1e-4)
    assert SEED or 1 < len(found) < 40


@pytest.mark.parametrize(("name", "layer"), [("vit_tiny", "Final"), ("vit_tiny", "blocks.1.norm1"), ("channels_last", "Middle")])
def test_vit_cx_is_a_plain_loop_over_the_clusters(name: str, layer: str) -> None:
    model = method_nets.model(name)
    images = pictures(2, *model.input_size)
    found = maps(model, images, "ViT-CX", layer, distance=0.25, noise=0.5)
    place = model.layer(layer)
    with model.session():
        context = AttributionContext(model, place, images, torch.tensor(TARGETS))
        noise = 0.5 * torch.randn(1, *images.shape[1:], generator=context.generator("vit-cx"))
        features = place.layout.spatial(context.sources)
    counts = []
    for k, image in enumerate(images.split(1)):
        total = np.zeros(place.shape[1:]), np.zeros(place.shape[1:])
        sums = clusters(features[k], 0.25)
        counts.append(len(sums))
        for cluster in sums:
            large = F.interpolate(cluster[None, None], size=images.shape[2:], mode="bilinear", align_corners=False)
            mask = torch.from_numpy(scaled(large.numpy()))
            rows = torch.cat([image, image + (1 - mask) * noise, image * mask + (1 - mask) * noise])
            with torch.no_grad():
                clean, noisy, masked = model.module(rows).softmax(1)[:, TARGETS[k]].double().tolist()
            weight = scaled(cluster.double().numpy())
            total = total[0] + (clean - noisy + masked) * weight, total[1] + weight
        assert close(found[k, 0], torch.from_numpy(total[0] / np.where(total[1] > 0, total[1], 1)), 1e-4)
    assert SEED or min(counts) > 2


@pytest.mark.parametrize(("name", "layer"), [("vit_tiny", "Input"), ("functional", "Final")])
def test_vit_cx_is_refused_at_a_layer_without_tokens(name: str, layer: str) -> None:
    model = method_nets.model(name)
    with pytest.raises(MethodError, match=f"ViT-CX makes its masks of tokens, but {layer} of .* is not a layer of tokens; choose a block"):
        create(MethodSpec("ViT-CX")).check(model, model.layer(layer))


def test_channels_that_are_constant_make_no_masks() -> None:
    assert len(clusters(torch.full((5, 3, 3), 0.2), 0.1)) == 0
    one = torch.cat([torch.full((5, 3, 3), 0.2), torch.arange(9.0).view(1, 3, 3)])
    assert close(clusters(one, 0.1)[0], torch.arange(9.0).view(3, 3) / 8)
