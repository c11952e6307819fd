"""Maps of one photo: shared with runs through the cache, and computed with passes in common."""

from pathlib import Path

import pytest
import torch
from support.numbers import close
from support.runs import Calls, classifier, compare, passes

import attrlib
from attrlib.data.birds.dataset import Birds
from attrlib.data.images import Photo, open_photo
from attrlib.data.pictures import open_image
from attrlib.engine.cache import InMemoryCache
from attrlib.engine.explain import titles_of
from attrlib.engine.photo_maps import PhotoMaps
from attrlib.errors import Cancelled, MethodError
from attrlib.methods import AttributionOptions, SharedMaps, attribute, resolve
from attrlib.specs import MethodSpec, parse_methods
from attrlib.store import Store

pytestmark = pytest.mark.usefixtures("own_cache")
METHODS = tuple(resolve(m) for m in parse_methods("IxG,Gradient,IG:steps=4,Grad-CAM,Layer-CAM@Final,SmoothGrad:samples=3"))


def photo_of(data: Path, label: int = 1) -> Photo:
    return open_photo(sorted((data / str(label)).iterdir())[0])


def maps_of(model: attrlib.Classifier, photo: Photo, cache: object, target: int = 1) -> PhotoMaps:
    return PhotoMaps(model, photo, target, 0, lambda: cache)  # type: ignore[arg-type, return-value]


def test_maps_are_those_of_attribute_bit_for_bit_in_any_order(model: attrlib.Classifier, data: Path, store: Store) -> None:
    photo = photo_of(data)
    images = model.preprocess(photo.image)[None]
    for methods in (METHODS, METHODS[::-1]):
        shared = SharedMaps(model, images, [1], AttributionOptions(seed=0))
        for method in methods:
            alone = attribute(model, method, images, [1])
            together = shared.attribute(method)
            assert torch.equal(together.maps, alone.maps)
            assert (together.spec, together.target, together.diagnostics) == (alone.spec, alone.target, alone.diagnostics)


def test_methods_in_common_take_fewer_passes(model: attrlib.Classifier, data: Path) -> None:
    images = model.preprocess(photo_of(data).image)[None]
    with passes() as alone:
        for text in ("SmoothGrad:samples=8", "VarGrad:samples=8"):
            attribute(model, MethodSpec.parse(text), images, [1])
    with passes() as together:
        shared = SharedMaps(model, images, [1])
        for text in ("SmoothGrad:samples=8", "VarGrad:samples=8"):
            shared.attribute(MethodSpec.parse(text))
    assert (alone.images, together.images) == (16, 8)


def test_a_map_of_a_run_is_not_computed_again(model: attrlib.Classifier, data: Path, store: Store) -> None:
    compare(model, "sds", "IxG,IG:steps=4", data, store)
    maps, photo = maps_of(model, photo_of(data), store), photo_of(data)
    for text in ("IxG", "IG:steps=4"):
        method = resolve(MethodSpec.parse(text))
        cached = maps.attribute(method)
        alone = attribute(model, method, model.preprocess(photo.image)[None], [1])
        assert close(cached.maps, alone.maps)
        assert (cached.spec, cached.target, cached.input_size) == (alone.spec, alone.target, alone.input_size)
        assert cached.seconds > 0
        assert cached.diagnostics.keys() == alone.diagnostics.keys()
        for name, values in alone.diagnostics.items():
            assert cached.diagnostics[name] == pytest.approx(values, rel=1e-3, abs=1e-6)


def test_only_missing_maps_take_passes(model: attrlib.Classifier, data: Path, store: Store) -> None:
    compare(model, "sds", "IxG", data, store)
    with passes() as counted:
        maps_of(model, photo_of(data), store).attribute(resolve(MethodSpec("IxG")))
    assert counted.images == 0
    with passes() as counted:
        maps_of(model, photo_of(data), store).attribute(resolve(MethodSpec("Gradient")))
    assert counted.images == 1


def test_a_run_does_not_compute_maps_of_photos_again(model: attrlib.Classifier, data: Path, store: Store, calls: Calls) -> None:
    for label in range(5):
        for file in sorted((data / str(label)).iterdir()):
            maps_of(model, open_photo(file), store, label).attribute(resolve(MethodSpec("IxG")))
    result = compare(model, "sds", "IxG", data, store)
    assert (result.computed, len(calls)) == (20, 0)


def test_maps_of_another_target_seed_or_model_are_computed(model: attrlib.Classifier, data: Path) -> None:
    cache, photo, method = InMemoryCache(), photo_of(data), resolve(MethodSpec("SmoothGrad", "Input", (("samples", 2),)))
    first = maps_of(model, photo, cache).attribute(method)
    assert torch.equal(maps_of(model, photo, cache).attribute(method).maps, first.maps)
    others = [maps_of(model, photo, cache, 2), PhotoMaps(model, photo, 1, 7, lambda: cache), maps_of(classifier(5), photo, cache)]
    others.append(maps_of(model, photo_of(data, 2), cache))
    for other in others:
        with passes() as counted:
            assert not torch.equal(other.attribute(method).maps, first.maps)
        assert counted.images >= 2


def test_an_uploaded_photo_is_not_written_to_disk(model: attrlib.Classifier, data: Path, store: Store) -> None:
    """Its pixels have the digest of the file, but nothing of a picture that a user uploads may outlast the session."""
    upload = open_photo(sorted((data / "1").iterdir())[0].read_bytes())
    assert not upload.id
    maps_of(model, upload, store).attribute(resolve(MethodSpec("IxG")))
    assert (store.sizes().maps, store.sizes().records) == (0, 0)


def test_pictures_have_the_digest_of_their_data_set(data: Path) -> None:
    dataset = attrlib.load_dataset(data)
    files = [file for label in range(5) for file in sorted((data / str(label)).iterdir())]
    assert {open_photo(file).id for file in files} == {dataset[k].id for k in range(len(dataset))}
    assert open_image("birds:test/3").id == Birds("test")[3].id


def test_stored_precision_is_that_of_the_map(model: attrlib.Classifier, data: Path) -> None:
    cache, method = InMemoryCache("float16"), resolve(MethodSpec("IxG"))
    computed = maps_of(model, photo_of(data), cache).attribute(method)
    assert torch.equal(computed.maps, computed.maps.half().float())
    assert torch.equal(maps_of(model, photo_of(data), cache).attribute(method).maps, computed.maps)


def test_tiles_of_one_method_are_titled_with_the_parameters_in_which_they_differ() -> None:
    methods = [
        resolve(m) for m in parse_methods("IG:steps=5,IG:steps=30,IG@Final:steps=5,IxG,SmoothGrad:samples=2,SmoothGrad:samples=2:noise=0.3")
    ]
    assert titles_of(methods) == ["IG steps=5", "IG steps=30", "IG", "IxG", "SmoothGrad noise=0.15", "SmoothGrad noise=0.3"]
    assert titles_of(methods[:1]) == ["IG"]


def test_errors_and_cancelling_leave_the_rest_usable(model: attrlib.Classifier, data: Path) -> None:
    maps = maps_of(model, photo_of(data), InMemoryCache())

    def cancel(_done: int, _total: int) -> None:
        raise Cancelled("enough")

    smooth = resolve(MethodSpec("SmoothGrad", "Input", (("samples", 3),)))
    with pytest.raises(Cancelled):
        maps.attribute(smooth, cancel)
    with pytest.raises(MethodError):
        maps.attribute(resolve(MethodSpec("CheferLRP")))
    images = model.preprocess(photo_of(data).image)[None]
    assert torch.equal(maps.attribute(smooth).maps, attribute(model, smooth, images, [1]).maps)
