"""Every method on models of one, four and twelve channels."""

from functools import cache

import pytest
import torch
from support.method_nets import SMALL
from support.nets import Banded, Transformer, made, pictures, reading_first

import attrlib
from attrlib.errors import MethodError
from attrlib.methods import METHODS

CHANNELS = (1, 4, 12)
SIZE = 32
NETS = {"convolutions": Banded, "transformer": lambda channels: Transformer(channels=channels)}
INFOS = {info.name: info for info in attrlib.list_methods()}
on_every_model = pytest.mark.parametrize("channels", CHANNELS)
every_method = pytest.mark.parametrize("method", METHODS)


def wrapped(net: torch.nn.Module, channels: int) -> attrlib.Classifier:
    return attrlib.wrap_model(net, SIZE, (0.5,) * channels, (0.5,) * channels)


@cache
def model(name: str, channels: int) -> attrlib.Classifier:
    return wrapped(made(NETS[name], channels), channels)


@cache
def reading(name: str, channels: int) -> attrlib.Classifier:
    """The same function of the first channel, whatever the number of channels."""
    return wrapped(reading_first(made(NETS[name], 3), channels), channels)


def explain(used: attrlib.Classifier, images: torch.Tensor, method: str, layer: str, **more: object) -> torch.Tensor:
    small: dict[str, object] = {p.name: SMALL[p.name] for p in INFOS[method].params if p.name in SMALL}
    if method == "Occlusion" and layer == "Input":
        small = {"window": 16, "stride": 8}
    try:
        return attrlib.explain(used, images, method, [1, 3], layer, **{**small, **more}).maps
    except MethodError as error:
        if INFOS[method].needs:
            pytest.skip(f"{method} needs {', '.join(INFOS[method].needs)}")
        if "sums over channels to zero" in str(error) and layer == "Final":
            pytest.skip("a LayerNorm follows, before which the sum over channels is zero")
        raise


@on_every_model
@every_method
@pytest.mark.parametrize("layer", ["Input", "Final"])
@pytest.mark.parametrize("name", NETS)
def test_maps_are_finite_and_not_zero(name: str, layer: str, method: str, channels: int) -> None:
    used = model(name, channels)
    maps = explain(used, pictures(2, SIZE, channels=channels), method, layer)
    assert maps.shape == (2, 1, *used.layer(layer).shape[1:])
    assert maps.isfinite().all()
    assert maps.abs().sum() > 0 or (method, layer) == ("VarGrad", "Final")


DEPENDS_ON_UNREAD_CHANNELS = {
    "Random": "its seed is the image",
    "Sobel": "it filters the image itself",
    "Guided IG": "each step moves a share of all entries, those with the smallest gradient first",
}


@on_every_model
@every_method
@pytest.mark.parametrize("name", NETS)
def test_channels_that_the_model_does_not_read_change_no_map(name: str, method: str, channels: int) -> None:
    if method in DEPENDS_ON_UNREAD_CHANNELS:
        pytest.skip(DEPENDS_ON_UNREAD_CHANNELS[method])
    first = pictures(2, SIZE, channels=1)
    # Superpixels and the colours of sample photos do depend on the other channels.
    names = {p.name for p in INFOS[method].params}
    options = {name: value for name, value in (("segments", "grid"), ("background", "greys")) if name in names}
    maps = []
    for count in (3, channels):
        images = torch.zeros(2, count, SIZE, SIZE)
        images[:, :1] = first
        maps.append(explain(reading(name, count), images, method, "Input", **options))
    assert torch.allclose(maps[1], maps[0], rtol=1e-3, atol=1e-5 * float(maps[0].abs().max()))


@on_every_model
def test_superpixels_follow_the_bands(channels: int) -> None:
    images = torch.zeros(1, channels, SIZE, SIZE)
    # Only the last band shows the two halves.
    images[:, -1, :, SIZE // 2 :] = 1
    maps = attrlib.explain(model("convolutions", channels), images, "LIME", 1, samples=50, cells=2).maps[0, 0]
    left, right = maps[:, : SIZE // 2].unique(), maps[:, SIZE // 2 :].unique()
    assert not set(left.tolist()) & set(right.tolist())


@on_every_model
def test_the_doctor_examines_models_of_any_channels(channels: int) -> None:
    diagnosis = attrlib.doctor(model("convolutions", channels), ["IG", "Grad-CAM", "LRP", "RISE"])
    for method in diagnosis.methods:
        assert diagnosis.finding(method, "Input").state == attrlib.doctor(model("convolutions", 3), [method]).finding(method, "Input").state
