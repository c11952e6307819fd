import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import timm
import torch
import torchvision
from support.nets import CLASSES, SIZE, Dense, NoMaps, Plain, Residual, SharedActivation, Transformer, Windows, made, pictures
from torch import Tensor, nn

from attrlib.errors import LayerError
from attrlib.models import Layout
from attrlib.models.layers import infer_layout

# Model: path and (channels, height, width) of Middle and of Final, then kind and number of prefix tokens of Middle's layout.
DEFAULTS = {
    "torchvision:resnet18": ("layer2", (128, 28, 28), "layer4", (512, 7, 7), "NCHW", 0),
    "torchvision:resnet50": ("layer2", (512, 28, 28), "layer4", (2048, 7, 7), "NCHW", 0),
    "torchvision:vgg11": ("features.12", (512, 28, 28), "features.19", (512, 14, 14), "NCHW", 0),
    "torchvision:vgg16_bn": ("features.26", (512, 28, 28), "features.42", (512, 14, 14), "NCHW", 0),
    "torchvision:densenet121": ("features.denseblock2", (512, 28, 28), "features.norm5", (1024, 7, 7), "NCHW", 0),
    "torchvision:efficientnet_b0": ("features.3", (40, 28, 28), "features.8", (1280, 7, 7), "NCHW", 0),
    "torchvision:mobilenet_v2": ("features.6", (32, 28, 28), "features.18", (1280, 7, 7), "NCHW", 0),
    "torchvision:mobilenet_v3_large": ("features.6", (40, 28, 28), "features.16", (960, 7, 7), "NCHW", 0),
    "torchvision:convnext_tiny": ("features.3", (192, 28, 28), "features.7", (768, 7, 7), "NCHW", 0),
    "torchvision:vit_b_16": (
        "encoder.layers.encoder_layer_5",
        (768, 14, 14),
        "encoder.layers.encoder_layer_10",
        (768, 14, 14),
        "tokens",
        1,
    ),
    "torchvision:swin_t": ("features.3", (192, 28, 28), "permute", (768, 7, 7), "NHWC", 0),
    "timm:resnet18": ("layer2", (128, 28, 28), "layer4", (512, 7, 7), "NCHW", 0),
    "timm:tf_efficientnet_lite0": ("blocks.2", (40, 28, 28), "bn2", (1280, 7, 7), "NCHW", 0),
    "timm:mobilenetv3_large_100": ("blocks.2", (40, 28, 28), "blocks.6", (960, 7, 7), "NCHW", 0),
    "timm:densenet121": ("features.denseblock2", (512, 28, 28), "features.norm5", (1024, 7, 7), "NCHW", 0),
    "timm:convnext_atto": ("stages.1", (80, 28, 28), "stages.3", (320, 7, 7), "NCHW", 0),
    "timm:vit_tiny_patch16_224": ("blocks.5", (192, 14, 14), "blocks.10", (192, 14, 14), "tokens", 1),
    "timm:deit_tiny_distilled_patch16_224": ("blocks.5", (192, 14, 14), "blocks.10", (192, 14, 14), "tokens", 2),
    "timm:swin_tiny_patch4_window7_224": ("layers.1", (192, 28, 28), "norm", (768, 7, 7), "NHWC", 0),
    "timm:mixer_s16_224": ("blocks.3", (512, 14, 14), "blocks.7", (512, 14, 14), "tokens", 0),
    "timm:regnety_002": ("s2", (56, 28, 28), "s4", (368, 7, 7), "NCHW", 0),
}


def published(name: str) -> attrlib.Classifier:
    """The architecture with random weights and, unlike timm's untrained networks, no head that is all zero."""
    model = attrlib.wrap_model(cheap_vgg(name), 224) if "vgg" in name else attrlib.load_model(name, device="cpu", pretrained=False)
    for m in model.module.modules():
        if isinstance(m, nn.Linear) and not m.weight.any():
            nn.init.normal_(m.weight, std=0.02)
    return model


def cheap_vgg(name: str) -> nn.Module:
    """The architecture without the seconds that drawing its 130 million weights takes."""
    with torch.device("meta"):
        module = torchvision.models.get_model(name.removeprefix("torchvision:"))
    module = module.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.fill_(1e-3)
    return module.eval()


@pytest.mark.parametrize("name", DEFAULTS)
def test_input_middle_and_final_of_published_architectures(name):
    layers = published(name).layers
    middle, middle_shape, final, final_shape, kind, prefix = DEFAULTS[name]
    found = {n: (layers[n].path, layers[n].shape) for n in ("Input", "Middle", "Final")}
    assert found == {"Input": ("", (3, 224, 224)), "Middle": (middle, middle_shape), "Final": (final, final_shape)}
    assert (layers["Middle"].layout.kind, layers["Middle"].layout.prefix) == (kind, prefix)
    assert list(layers)[:3] == ["Input", "Middle", "Final"]
    assert all(layers[n].name == n for n in layers)


SMALL = {
    "maxvit_rmlp_pico_rw_256": (dict(img_size=64, depths=(1, 1, 1, 1)), ("stages.1", (64, 8, 8)), ("norm", (256, 2, 2))),
    "efficientnet_b0": (dict(), ("blocks.2", (40, 8, 8)), ("bn2", (1280, 2, 2))),
    "coatnet_pico_rw_224": (dict(img_size=64, depths=(1, 1, 1, 1)), ("stages.1", (128, 8, 8)), ("norm", (512, 2, 2))),
    "resmlp_12_224": (dict(img_size=64), ("blocks.5", (384, 4, 4)), ("blocks.11", (384, 4, 4))),
}


@pytest.mark.parametrize("name", SMALL)
def test_input_middle_and_final_of_small_versions(name):
    options, middle, final = SMALL[name]
    layers = attrlib.wrap_model(made(lambda: timm.create_model(name, num_classes=CLASSES, **options)), 64).layers
    assert layers["Input"].shape == (3, 64, 64)
    found = [(layers[n].path, layers[n].shape) for n in ("Middle", "Final")]
    assert found == [middle, final]


@pytest.mark.parametrize(("prefix", "final"), [(1, "blocks.4"), (3, "blocks.4"), (0, "blocks.5")])
def test_final_is_the_last_block_from_which_the_logits_read_every_position(prefix, final):
    model = attrlib.wrap_model(made(Transformer, prefix, 6), SIZE)
    assert model.layer("Final").path == final
    assert model.layer("Middle").path == "blocks.2"
    assert model.layer("Final").layout == Layout("tokens", 8, 4, 4, prefix)


def test_final_of_a_transformer_with_an_untrained_head_is_the_block_before_the_last():
    module = made(Transformer, 1, 6)
    nn.init.zeros_(module.head.weight)
    assert attrlib.wrap_model(module, SIZE).layer("Final").path == "blocks.4"


def test_final_does_not_depend_on_whether_the_head_is_trained():
    module = made(Transformer, 0, 6)
    nn.init.zeros_(module.head.weight)
    assert attrlib.wrap_model(module, SIZE).layer("Final").path == "blocks.5"


def spatial_outputs(module: nn.Module, size: int) -> dict[str, tuple[int, ...]]:
    """Path and shape of every (1,C,h,w) output with positions, in order of completion, seen by plain hooks."""
    seen: list[tuple[str, tuple[int, ...]]] = []
    handles = [
        m.register_forward_hook(lambda _m, _a, output, path=path: seen.append((path, tuple(output.shape))))
        for path, m in module.named_modules()
        if path and not isinstance(m, nn.AdaptiveAvgPool2d | nn.Dropout | nn.Identity)
    ]
    with torch.no_grad():
        module(pictures(1, size))
    for handle in handles:
        handle.remove()
    paths = [path for path, _ in seen]
    return {path: shape[1:] for path, shape in seen if len(shape) == 4 and shape[2] * shape[3] > 1 and paths.count(path) == 1}


@pytest.mark.parametrize(
    ("net", "size"),
    [((Plain,), SIZE), ((Residual,), SIZE), ((SharedActivation,), SIZE), ((Dense,), SIZE), ((timm.create_model, "resnet18"), 64)],
    ids=["Plain", "Residual", "SharedActivation", "Dense", "resnet18"],
)
def test_every_layer_is_listed_by_module_path_in_order_of_execution(net, size):
    module = made(*net)
    layers = attrlib.wrap_model(module, size).layers
    found = [(path, layer.shape) for path, layer in layers.items() if path not in ("Input", "Middle", "Final")]
    assert found == list(spatial_outputs(module, size).items())


def test_token_layers_are_listed_by_module_path_with_their_grid():
    layers = attrlib.wrap_model(made(Transformer, 1, 2), SIZE).layers
    shapes = {path: layers[path].shape for path in layers if path.startswith("blocks.1")}
    assert shapes == {
        "blocks.1.norm1": (8, 4, 4),
        "blocks.1.attn.qkv": (24, 4, 4),
        "blocks.1.attn.proj": (8, 4, 4),
        "blocks.1.attn": (8, 4, 4),
        "blocks.1.norm2": (8, 4, 4),
        "blocks.1.mlp.0": (16, 4, 4),
        "blocks.1.mlp.1": (16, 4, 4),
        "blocks.1.mlp.2": (8, 4, 4),
        "blocks.1.mlp": (8, 4, 4),
        "blocks.1": (8, 4, 4),
    }


def test_layers_of_an_input_that_is_not_square():
    layers = attrlib.wrap_model(made(Transformer, 1, 3), (16, 32)).layers
    assert layers["Input"].shape == (3, 16, 32)
    assert layers["patch"].shape == (8, 4, 8)
    assert layers["Final"].shape == (8, 4, 8)


# Errors.


def test_an_unknown_layer_is_answered_with_the_nearest_names():
    model = attrlib.wrap_model(made(Residual), SIZE)
    with pytest.raises(LayerError, match=r"unknown layer.*blocks\.1\.conv3.*Did you mean.*blocks\.1\.conv2"):
        model.layer("blocks.1.conv3")
    with pytest.raises(LayerError, match=r"Did you mean Final\?"):
        model.layer("final")
    with pytest.raises(LayerError, match="Known: Input, Middle, Final"):
        model.layer("zzzzzzzzzz")


@pytest.mark.parametrize("path", ["fc", "pool"])
def test_a_layer_without_positions_yields_no_map(path):
    with pytest.raises(LayerError, match=rf"'{path}'.*no spatial map"):
        attrlib.wrap_model(made(Plain), SIZE).layer(path)


def test_a_module_that_is_called_more_than_once_is_not_a_layer():
    model = attrlib.wrap_model(made(SharedActivation), SIZE)
    assert "act" not in model.layers
    with pytest.raises(LayerError, match=r"'act'.*called more than once"):
        model.layer("act")


def test_middle_and_final_can_be_chosen():
    model = attrlib.wrap_model(made(Plain), SIZE, layers={"Middle": "features.0", "Final": "features.4"})
    assert (model.layer("Middle").path, model.layer("Middle").shape) == ("features.0", (4, 16, 16))
    assert (model.layer("Final").path, model.layer("Final").shape) == ("features.4", (6, 8, 8))


def test_choosing_middle_or_final_does_not_change_the_other():
    own = attrlib.wrap_model(made(Plain), SIZE)
    chosen = attrlib.wrap_model(made(Plain), SIZE, layers={"Final": "features.0"})
    assert chosen.layer("Final").path == "features.0"
    assert chosen.layer("Middle") == own.layer("Middle")


@pytest.mark.parametrize(
    "layers", [{"Final": "features.99"}, {"Last": "features.0"}, {"Input": "features.0"}, {"features.0": "features.1"}]
)
def test_names_and_paths_that_do_not_exist_cannot_be_chosen(layers):
    ((name, path),) = layers.items()
    with pytest.raises(LayerError, match=f"'{name}': '{path}'.*use Middle or Final as names"):
        attrlib.wrap_model(made(Plain), SIZE, layers=layers)


def test_a_layer_without_a_map_cannot_be_chosen():
    with pytest.raises(LayerError, match="fc"):
        attrlib.wrap_model(made(Plain), SIZE, layers={"Final": "fc"})


def test_a_model_without_spatial_layers_has_only_its_input():
    model = attrlib.wrap_model(made(NoMaps), SIZE)
    assert list(model.layers) == ["Input"]
    for name in ("Middle", "Final"):
        with pytest.raises(LayerError, match=rf"wrapped:NoMaps has no layer {name}: none of its modules .* use a method at Input"):
            model.layer(name)
    with pytest.raises(LayerError, match="wrapped:NoMaps has no layer Final"):
        attrlib.explain(model, pictures(1), "Grad-CAM")
    assert attrlib.explain(model, pictures(1), "Gradient").maps.shape == (1, 1, SIZE, SIZE)


# Layouts.


@pytest.mark.parametrize(
    ("shape", "image", "expected"),
    [
        ((1, 512, 7, 7), (224, 224), Layout("NCHW", 512, 7, 7)),
        ((1, 3, 224, 224), (224, 224), Layout("NCHW", 3, 224, 224)),
        ((1, 7, 7, 7), (224, 224), Layout("NCHW", 7, 7, 7)),
        ((1, 64, 8, 16), (128, 256), Layout("NCHW", 64, 8, 16)),
        ((1, 64, 7, 11), (224, 336), Layout("NCHW", 64, 7, 11)),
        ((1, 7, 7, 768), (224, 224), Layout("NHWC", 768, 7, 7)),
        ((1, 8, 16, 96), (128, 256), Layout("NHWC", 96, 8, 16)),
        ((1, 196, 384), (224, 224), Layout("tokens", 384, 14, 14, 0)),
        ((1, 197, 768), (224, 224), Layout("tokens", 768, 14, 14, 1)),
        ((1, 198, 192), (224, 224), Layout("tokens", 192, 14, 14, 2)),
        ((1, 201, 384), (224, 224), Layout("tokens", 384, 14, 14, 5)),
        ((1, 257, 1024), (224, 224), Layout("tokens", 1024, 16, 16, 1)),
        ((1, 1370, 384), (518, 518), Layout("tokens", 384, 37, 37, 1)),
        ((1, 129, 192), (128, 256), Layout("tokens", 192, 8, 16, 1)),
        ((1, 129, 192), (256, 128), Layout("tokens", 192, 16, 8, 1)),
        ((1, 1000), (224, 224), None),
        ((1, 512, 1, 1), (224, 224), None),
        ((1, 1, 768), (224, 224), None),
        ((1, 512, 7, 14), (224, 224), None),
        ((1, 512, 300, 300), (224, 224), None),
        ((1, 150, 64), (224, 224), None),
        ((1,), (224, 224), None),
        ((), (224, 224), None),
        ((1, 8, 4, 14, 14), (224, 224), None),
    ],
)
def test_the_layout_is_inferred_from_the_shape(shape, image, expected):
    assert infer_layout(shape, image) == expected


@pytest.mark.parametrize("shape", [(64, 49, 96), (4, 12, 49, 49), (1, 2, 1, 1), (1, 2, 64)])
def test_windows_and_pairs_of_values_are_not_maps(shape):
    assert infer_layout(shape, (224, 224)) is None


def test_a_module_that_processes_windows_as_images_is_not_a_layer():
    assert "inner" not in attrlib.wrap_model(made(Windows), SIZE).layers


class ShownAttention(nn.Module):
    """Computes its softmax over keys in a module, whose output is a (1, heads, tokens, tokens) matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.softmax = nn.Softmax(dim=-1)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2).unflatten(2, (2, 4)).transpose(1, 2)
        attended = self.softmax(tokens @ tokens.transpose(2, 3)) @ tokens
        return self.fc(attended.transpose(1, 2).flatten(2).mean(1))


def test_an_attention_matrix_is_not_a_layer():
    assert "softmax" not in attrlib.wrap_model(made(ShownAttention), SIZE).layers


class VGG(nn.Module):
    """A custom small network with this name."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


def test_a_vgg_with_fewer_poolings_has_middle_and_final_too():
    assert attrlib.wrap_model(made(VGG), SIZE).layer("Final").shape == (4, 8, 8)


LAYOUTS = [
    Layout("NCHW", 5, 3, 4),
    Layout("NHWC", 5, 3, 4),
    Layout("tokens", 5, 3, 4, 0),
    Layout("tokens", 5, 3, 4, 1),
    Layout("tokens", 5, 3, 4, 5),
]
each_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: f"{x.kind}{x.prefix}")


def native_shape(layout: Layout, count: int = 2) -> tuple[int, ...]:
    if layout.kind == "tokens":
        return count, layout.prefix + layout.height * layout.width, layout.channels
    return (count, 5, 3, 4) if layout.kind == "NCHW" else (count, 3, 4, 5)


def element(layout: Layout, values: Tensor, image: int, channel: int, y: int, x: int) -> Tensor:
    if layout.kind == "tokens":
        return values[image, layout.prefix + y * layout.width + x, channel]
    return values[image, channel, y, x] if layout.kind == "NCHW" else values[image, y, x, channel]


@each_layout
def test_spatial_keeps_positions_where_they_are_in_the_image(layout):
    values = torch.randn(native_shape(layout))
    spatial = layout.spatial(values)
    assert spatial.shape == (2, *layout.shape)
    for image, channel, y, x in [(0, 0, 0, 0), (1, 4, 2, 3), (0, 2, 1, 3), (1, 0, 2, 0)]:
        assert spatial[image, channel, y, x] == element(layout, values, image, channel, y, x)


@each_layout
def test_multiplying_with_native_factors_is_masking_in_space(layout):
    values, factors = torch.randn(native_shape(layout)), torch.rand(2, 1, 3, 4)
    masked = values * layout.native(factors)
    assert masked.shape == values.shape
    assert torch.equal(layout.spatial(masked), layout.spatial(values) * factors)


@each_layout
def test_one_mask_serves_all_images(layout):
    values, factors = torch.randn(native_shape(layout)), torch.rand(1, 1, 3, 4)
    assert torch.equal(layout.spatial(values * layout.native(factors)), layout.spatial(values) * factors)


@pytest.mark.parametrize("prefix", [1, 5])
def test_prefix_tokens_keep_their_value_by_default(prefix):
    layout = Layout("tokens", 5, 3, 4, prefix)
    values, nothing = torch.randn(native_shape(layout)), torch.zeros(2, 1, 3, 4)
    kept = values * layout.native(nothing)
    assert torch.equal(kept[:, :prefix], values[:, :prefix])
    assert not kept[:, prefix:].any()
    assert not (values * layout.native(nothing, prefix_value=0.0)).any()


def test_the_grid_of_tokens_matches_the_patches():
    module, image = made(Transformer, 2, 1), torch.zeros(1, 3, 16, 32)
    image[:, :, 4:8, 20:24] = 1.0
    model = attrlib.wrap_model(module, (16, 32))
    with model.session():
        changed = module.patch(image).flatten(2).transpose(1, 2) - module.patch(torch.zeros_like(image)).flatten(2).transpose(1, 2)
    tokens = torch.cat([torch.zeros(1, 2, 8), changed], dim=1)
    moved = model.layer("blocks.0").layout.spatial(tokens).abs().sum(1)[0]
    assert moved.nonzero().tolist() == [[1, 5]]


# Transformers of other libraries and home-made ones.


class Encoder(nn.Module):
    """A transformer of PyTorch's own layers, whose head reads a class token or the mean."""

    def __init__(self, depth: int, batch_first: bool, token: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first, norm_first=True)
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16)) if token else None
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head, self.batch_first = nn.Linear(16, CLASSES), batch_first

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        tokens = self.encoder(tokens if self.batch_first else tokens.transpose(0, 1))
        tokens = tokens if self.batch_first else tokens.transpose(0, 1)
        return self.head(tokens.mean(1) if self.token is None else tokens[:, 0])


class Separate(nn.Module):
    """A block of separate projections, which returns a tuple, as those of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        y = self.norm(x)
        weights = (self.query(y) @ self.key(y).transpose(1, 2)).softmax(-1)
        return x + self.out(weights @ self.value(y)), None


class OfTuples(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.patch, self.blocks = nn.Conv2d(3, 8, 4, 4), nn.ModuleList(Separate() for _ in range(depth))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)[0]
        return self.head(tokens.mean(1))


class Attending(Separate):
    """A block that returns its attention, too."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        y = self.norm(x)
        weights = (self.query(y) @ self.key(y).transpose(1, 2)).softmax(-1)
        return x + self.out(weights @ self.value(y)), weights


class OfAttention(OfTuples):
    """The head reads the features, and if `reads` the attention of the last block."""

    def __init__(self, depth: int, reads: bool = False) -> None:
        super().__init__(depth)
        self.blocks, self.reads = nn.ModuleList(Attending() for _ in range(depth)), reads

    def forward(self, x: Tensor) -> Tensor:
        tokens, weights = self.patch(x).flatten(2).transpose(1, 2), None
        for block in self.blocks:
            tokens, weights = block(tokens)
        pooled = tokens.mean(1)
        return self.head(pooled + 9 * weights.std((1, 2))[:, None] if self.reads else pooled)


class InStages(OfTuples):
    """Blocks of one resolution in two groups."""

    def __init__(self) -> None:
        super().__init__(6)
        blocks = list(self.blocks)
        self.blocks = nn.ModuleList([nn.Sequential(*map(First, blocks[:3])), nn.Sequential(*map(First, blocks[3:]))])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        for stage in self.blocks:
            tokens = stage(tokens)
        return self.head(tokens.mean(1))


class First(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)[0]


HOME_MADE = {
    "encoder, batch first, mean": ((Encoder, 4, True, False), "encoder.layers.1", "encoder.layers.3"),
    "encoder, batch first, class token": ((Encoder, 4, True, True), "encoder.layers.1", "encoder.layers.2"),
    "encoder, tokens first, mean": ((Encoder, 4, False, False), "encoder.layers.1", "encoder.layers.3"),
    "encoder, tokens first, class token": ((Encoder, 4, False, True), "encoder.layers.1", "encoder.layers.2"),
    "two layers": ((Encoder, 2, True, False), "encoder.layers.0", "encoder.layers.1"),
    "tuples": ((OfTuples, 3), "blocks.1", "blocks.2"),
    "two tuples": ((OfTuples, 2), "blocks.0", "blocks.1"),
    "with attention": ((OfAttention, 3), "blocks.1", "blocks.2"),
    "stages": ((InStages,), "blocks.0.2", "blocks.1.2"),
}


@pytest.mark.parametrize(("net", "middle", "final"), HOME_MADE.values(), ids=HOME_MADE)
def test_middle_and_final_of_home_made_transformers(net, middle, final):
    module = made(*net)
    model, images = attrlib.wrap_model(module, SIZE), pictures(3)
    assert (model.layer("Middle").path, model.layer("Final").path) == (middle, final)
    prefix = model.layer("Final").layout.prefix
    # Input x Gradient, from a hook and autograd alone. Before a last LayerNorm, its sum over channels would be zero.
    kept = []
    handle = module.get_submodule(final).register_forward_hook(
        lambda _m, _a, output: kept.append(output if isinstance(output, Tensor) else output[0])
    )
    logits = module(images)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, 2].sum(), kept[0])
    product = (kept[0] * gradient).detach()
    product = product if len(product) == 3 else product.transpose(0, 1)
    expected = product.abs().sum(2)[:, prefix:].view(3, 1, 4, 4)
    found = attrlib.explain(model, images, "IxG@Final:channels=abs-sum", target=2).maps
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(product.abs().sum(2).max()))
    assert torch.isfinite(attrlib.explain(model, images, "RISE@Final:samples=8", target=2).maps).all()


def test_blocks_whose_attention_is_read_are_no_layers():
    module = made(OfAttention, 3, True)
    assert "blocks.2" not in attrlib.wrap_model(module, SIZE).layers


SMALL_CONFIG = dict(hidden_size=32, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8, num_labels=CLASSES)
OF_TRANSFORMERS = {
    "ViT": (dict(num_hidden_layers=3, **SMALL_CONFIG), 32, "vit.layers.1", "vit.layers.1"),
    "Dinov2": (dict(num_hidden_layers=3, **SMALL_CONFIG), 32, "dinov2.encoder.layer.1", "dinov2.encoder.layer.2"),
    "Beit": (dict(num_hidden_layers=3, **SMALL_CONFIG), 32, "beit.layers.1", "beit.layers.2"),
    "Swin": (
        dict(image_size=64, patch_size=4, embed_dim=16, depths=[1, 1, 2], num_heads=[2, 2, 2], window_size=4, num_labels=CLASSES),
        64,
        "swin.encoder.layers.1.blocks.0",
        "swin.layernorm",
    ),
    "ConvNext": (
        dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], num_labels=CLASSES),
        64,
        "convnext.encoder.stages.1",
        "convnext.encoder.stages.3",
    ),
    "Pvt": (
        dict(image_size=64, hidden_sizes=[8, 16, 20, 24], depths=[1, 1, 1, 2], num_attention_heads=[1, 2, 2, 2], num_labels=CLASSES),
        64,
        "pvt.encoder.block.1.0",
        "pvt.encoder.block.3.0",
    ),
    "Levit": (
        dict(
            image_size=64, hidden_sizes=[16, 24, 32], num_attention_heads=[1, 2, 2], depths=[1, 1, 1], key_dim=[8, 8, 8], num_labels=CLASSES
        ),
        64,
        "levit.patch_embeddings.activation_layer_3",
        "levit.encoder.stages.1.layers.1",
    ),
}


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("name", OF_TRANSFORMERS)
def test_middle_and_final_of_models_of_transformers(name, eager):
    transformers = pytest.importorskip("transformers", minversion="5")
    options, size, middle, final = OF_TRANSFORMERS[name]
    config = getattr(transformers, f"{name}Config")(**options)
    if eager:
        config._attn_implementation = "eager"
    module = made(getattr(transformers, f"{name}ForImageClassification"), config)
    model = attrlib.wrap_model(module, size)
    assert (model.layer("Middle").path, model.layer("Final").path) == (middle, final)
    torch.testing.assert_close(model(pictures(2, size)), module(pictures(2, size)).logits)


# Networks of several resolutions whose head reads a class token: Final, and the block after it.
CLASS_TOKENS = {
    "pit_ti_224": ({}, "transformers.2.blocks.2", "transformers.2.blocks.3"),
    "coat_lite_tiny": ({}, "serial_blocks4.0", "serial_blocks4.1"),
    "xcit_nano_12_p16_224": ({"depth": 2}, "cls_attn_blocks.0", "cls_attn_blocks.1"),
    "vit_tiny_r_s16_p8_224": ({"depth": 3}, "blocks.1", "blocks.2"),
}


@pytest.mark.parametrize("name", CLASS_TOKENS)
def test_final_is_read_at_all_positions_in_networks_of_several_resolutions(name):
    options, final, after = CLASS_TOKENS[name]
    module = made(lambda: timm.create_model(name, num_classes=CLASSES, **options))
    nn.init.normal_(module.get_classifier().weight)
    assert attrlib.wrap_model(module, 224).layer("Final").path == final
    # From hooks and autograd alone: the logits read the patches of Final, and of the next block the class token only.
    kept = {}
    for path in (final, after):
        module.get_submodule(path).register_forward_hook(lambda _m, _a, output, path=path: kept.__setitem__(path, output))
    logits = module(pictures(1, 224))
    read, unread = torch.autograd.grad(logits.square().sum(), [kept[final], kept[after]])
    assert (read[:, 1:].abs().amax(2) > 0).all()
    assert not unread[:, 1:].any()
