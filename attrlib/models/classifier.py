"""Classifier: a module that maps normalised images to logits, with its preprocessing, class names, device and layers."""

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from itertools import chain
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from attrlib.errors import ImageError, LayerError, SpecError, unknown
from attrlib.models.code import code_of, values_of
from attrlib.models.layers import NAMED, Layer, Layout, find_layers
from attrlib.models.modules.ending import Recorded, record
from attrlib.models.modules.failures import check_values, failure, has_more_rows, not_logits
from attrlib.models.modules.forward import returning_logits, seeded
from attrlib.models.modules.preserve import preserved, reduced
from attrlib.models.modules.probes import Behaviour, behaviour, memory_format
from attrlib.models.modules.tracing import scripted_part
from attrlib.models.modules.unwrapping import in_float32, unwrapped
from attrlib.models.outputs import Outputs, find_outputs, with_rows
from attrlib.models.preprocessing import Picture, Preprocessing
from attrlib.models.split import Split
from attrlib.models.weights import WeightDigest
from attrlib.specs import ModelSpec, digest

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
# One lock per module, because two classifiers may wrap the same module.
_locks_lock = threading.Lock()


def _lock_of(module: nn.Module) -> threading.RLock:
    with _locks_lock:
        return _locks.setdefault(module, threading.RLock())


class Classifier:
    """A module that maps normalised images (B,C,H,W) to logits (B,K), with preprocessing, class names, device and layers.

    Created by `attrlib.load_model` and `attrlib.wrap_model`. No computation through a classifier changes the module.

    Wrappers that only distribute or compile the module are left out. If its weights are not float32, `module` is a copy that is. An output
    with an entry `logits` is replaced by it.

    Args:
        module: The network, from normalised images (B,C,H,W) to logits (B,K).
        preprocessing: Maps a picture to the network's input. Its mean and std say how many channels the network reads.
        spec: The model in text form, used as its name in messages.
        class_names: One name per output; by default `class 0`, `class 1`, ...
        layer_names: Module paths that `Middle` and `Final` stand for; by default they are inferred.
        deletion_tuned: Whether the model was fine-tuned on images with deleted patches, as IDSDS requires.
        outputs: What the network's numbers mean, see `attrlib.models.outputs`.
        notes: What was assumed or left out when the model was loaded.

    Attributes:
        architecture: Name by which the network is built, with the options that were read from its checkpoint.
        outputs: What the network's numbers mean.
        notes: What was assumed or left out when the model was loaded, and found out about its outputs.
        derived: Cache of the views of this classifier that `attrlib.models.cells` creates.
        memory_format: Memory format in which the module takes images.
        unreachable: Cache of `attrlib.methods.differentiable`: why no gradient reaches a layer, by path; empty if one does.

    Raises:
        ModelError: The module is not a classifier, has weights without values, or `class_names` does not fit its outputs.
    """

    def __init__(
        self,
        module: nn.Module,
        preprocessing: Preprocessing,
        spec: ModelSpec,
        class_names: Sequence[str] | None = None,
        layer_names: Mapping[str, str] | None = None,
        deletion_tuned: bool = False,
        outputs: str = "auto",
        notes: Sequence[str] = (),
    ):
        check_values(module := unwrapped(module), str(spec))
        self.module, copied = in_float32(module)
        self.preprocessing = preprocessing
        self.spec = spec
        self.architecture = spec.architecture
        self.deletion_tuned = deletion_tuned
        self._layer_names = dict(layer_names or {})
        self._weights = WeightDigest()
        self.derived: dict[tuple[object, ...], Classifier] = {}
        self._splits: dict[tuple[str, torch.Size], Split] = {}
        self._layouts: dict[tuple[int, int], dict[str, Layout]] = {}
        self._lock = _lock_of(self.module)
        self.unreachable: dict[str, str] = {}
        self.memory_format, self._returns_more, self.outputs = torch.channels_last, False, Outputs()
        first = self._first_pass()
        with self.session():
            self.outputs, found = find_outputs(self.module, self._probe(1), first, outputs, self.name)
        self.notes = tuple(note for note in (*notes, copied, first.left_out, *found) if note)
        self.class_names = self.outputs.names(self.outputs.count(first.raw), class_names, self.name)

    def with_module(self, module: nn.Module, layer_names: Mapping[str, str] | None = None) -> "Classifier":
        """Return a copy of this classifier around another module.

        Args:
            module: The new module.
            layer_names: Module paths of `Middle` and `Final` in it; None if they are the same as in this classifier.
        """
        other = copy.copy(self)
        other.__dict__ |= dict(module=module, derived={}, _splits={}, _layouts={}, _lock=_lock_of(module))
        if layer_names is not None:
            other._layer_names = dict(layer_names)
            other.__dict__.pop("layers", None)
        if self.outputs.head:
            with other.session():
                other.outputs = with_rows(self.outputs, module, self._probe(1))
        return other

    @property
    def name(self) -> str:
        """Return the name of the model as used in messages."""
        return str(self.spec)

    @property
    def input_size(self) -> tuple[int, int]:
        """Return the height and width of the input in pixels."""
        return self.preprocessing.size

    @property
    def channels(self) -> int:
        """Return the number of channels of the input."""
        return self.preprocessing.channels

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Return the shape (C,H,W) of the input."""
        return self.channels, *self.input_size

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return next((t.device for t in chain(self.module.parameters(), self.module.buffers())), torch.device("cpu"))

    @property
    def nbytes(self) -> int:
        """Return the size of the weights in bytes."""
        return sum(t.nbytes for t in (*self.module.parameters(), *self.module.buffers()))

    def preprocess(self, picture: Picture) -> Tensor:
        """Return the normalised input (C,H,W) of a picture: a `Photo`, an item of a data set, a PIL image or an array."""
        return self.preprocessing(picture)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (B,K) of normalised images (B,C,H,W), differentiable with respect to the images."""
        with self.session():
            # Copied, because the module may write into its input.
            return self.logits(self.place(images).clone())

    def logits(self, placed: Tensor) -> Tensor:
        """Return the logits (B,C) of images that `place` returned; run it only inside `session()`."""
        if self.behaviour.one_by_one and len(placed) > 1:
            return self.outputs.logits(torch.cat([self.module(image) for image in placed.split(1)]))
        return self.outputs.logits(self.module(placed))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities (B,C) of logits (B,C). Raises `ProtocolError` for a model that predicts numbers."""
        return self.outputs.probabilities(logits)

    def place(self, images: Tensor) -> Tensor:
        """Move the images to the model's device, in the fastest memory format that the model accepts."""
        images = images.clone() if images.is_inference() else images
        return images.to(self.device, torch.float32).contiguous(memory_format=self.memory_format)

    @contextmanager
    def session(self, fast: bool = False) -> Iterator[None]:
        """Run one computation at a time in evaluation mode and restore the module afterwards; in full float32, or in bfloat16 if `fast`."""
        precision = reduced(self.module, self.device) if fast else torch.autocast(self.device.type, enabled=False)
        reading = returning_logits(self.module) if self._returns_more else nullcontext()
        with self._lock, torch.inference_mode(False), preserved(self.module), precision, reading, self.outputs.shown(self.module):
            yield

    @cached_property
    def behaviour(self) -> Behaviour:
        """Return how the outputs depend on other images and on chance, found out by a few passes."""
        # The generators are restored, but not set: two equal calls must draw different numbers.
        with self.session(), torch.no_grad(), seeded(self.device):
            return behaviour(self.module, self._probe(2))

    @property
    def remarks(self) -> tuple[str, ...]:
        """Return everything that a reader of results must know about the model: its notes and findings."""
        return (*self.notes, *self.findings)

    @property
    def findings(self) -> tuple[str, ...]:
        """Return what the probes found that a reader of results must know."""
        return self.behaviour.findings

    @cached_property
    def layers(self) -> dict[str, Layer]:
        """Return every layer to attribute to: `Input`, `Middle`, `Final`, then module paths in order of execution."""
        if self.behaviour.single:
            # The split at a layer inside compares passes of one and of two images.
            return {"Input": Layer("Input", "", Layout("NCHW", *self._probe(1).shape[1:]))}
        probe = self._probe(2)
        with self.session():
            for name, path in self._layer_names.items():
                if name not in NAMED[1:] or path not in dict(self.module.named_modules()):
                    raise LayerError(
                        f"layers={{{name!r}: {path!r}}} is not valid: use Middle or Final as names, and module paths of the model as values"
                    )
            return find_layers(self.module, probe, self._layer_names)

    def layer(self, name: str, size: tuple[int, int] | None = None) -> Layer:
        """Return the layer with this name or module path.

        Args:
            name: `Input`, `Middle`, `Final` or a module path.
            size: Height and width of the images in pixels; by default the model's input size.

        Raises:
            LayerError: There is no such layer, or it yields no spatial map.
            ImageError: The model cannot process images of this size.
        """
        if size is not None and size != self.input_size:
            path = self.layer(name).path
            layout = self._layouts_at(size).get(path)
            if layout is None:
                raise LayerError(
                    f"layer {name!r} of {self.name} yields no map for images of {size[0]} x {size[1]} px; choose another layer"
                )
            return Layer(name, path, layout)
        if name == "Input" or name in self.layers:
            return self.layers[name]
        if scripted := scripted_part(self.module, name):
            raise LayerError(
                f"layer {name!r} of {self.name} cannot be read: {scripted} is a TorchScript module, which runs outside of Python; "
                "explain at Input, or wrap the module that it was made from"
            )
        if self.behaviour.single:
            raise LayerError(
                f"layer {name!r} of {self.name} cannot be split at: the model accepts only one image at a time; explain at Input"
            )
        if name in NAMED:
            raise LayerError(
                f"{self.name} has no layer {name}: none of its modules runs exactly once and yields a map; use a method at Input, or name the "
                f"module with wrap_model(..., layers={{{name!r}: PATH}})"
            )
        if name in dict(self.module.named_modules()):
            raise LayerError(f"layer {name!r} of {self.name} yields no spatial map (or is called more than once); choose another layer")
        raise LayerError(unknown(f"layer of {self.name}", name, self.layers))

    def _layouts_at(self, size: tuple[int, int]) -> dict[str, Layout]:
        """Return the layouts of the layers by path for images of another size. Raises `ImageError` if the model cannot process them."""
        if size not in self._layouts:
            try:
                with self.session():
                    named = {n: self.layers[n].path for n in NAMED[1:] if n in self.layers}
                    layers = find_layers(self.module, self._probe(2, torch.Size((self.channels, *size))), named)
            except (RuntimeError, ValueError, TypeError, AssertionError, LayerError) as error:
                raise ImageError(
                    f"{self.name} cannot process images of {size[0]} x {size[1]} px ({str(error).splitlines()[0][:160]}); "
                    f"use images of {self.input_size[0]} x {self.input_size[1]} px"
                ) from error
            self._layouts[size] = {layer.path: layer.layout for layer in layers.values()}
        return self._layouts[size]

    def split(self, layer: Layer, size: torch.Size | None = None) -> Split:
        """Return the model as f_explain o f_pre at a layer; run it only inside `session()`.

        Args:
            layer: The layer to split at.
            size: Shape (C,H,W) of the images; by default that of the model's input.
        """
        size = size or torch.Size(self.input_shape)
        key = (layer.path, size)
        if key not in self._splits:
            with self.session():
                self._splits[key] = Split.at(self.module, layer.path, self._probe(2, size), self.memory_format).fresh()
        return self._splits[key]

    def target(self, target: int | str) -> int:
        """Return the class index for an index, a class name or one of its comma-separated synonyms.

        Raises:
            SpecError: No class, or more than one, has this index or name.
        """
        text = str(target).strip()
        if text.isascii() and text.isdigit():
            if len(text) < 10 and int(text) < len(self.class_names):
                return int(text)
            raise SpecError(f"target={text[:20]} is not a class of {self.name}: it has classes 0 to {len(self.class_names) - 1}")
        whole = [i for i, name in enumerate(self.class_names) if name.lower() == text.lower()]
        parts = [i for i, name in enumerate(self.class_names) if text.lower() in (part.strip().lower() for part in name.split(","))]
        matches = whole or parts
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise SpecError(f"{text!r} is the name of classes {' and '.join(map(str, matches[:5]))} of {self.name}; give the index")
        raise SpecError(unknown(f"class of {self.name}", text, [n.split(",")[0] for n in self.class_names]))

    @property
    def digest(self) -> str:
        """Return the digest of weights, architecture and preprocessing.

        For custom modules it also covers code, plain attributes, and the layers named Middle and Final. Weights are hashed again only after
        they have changed.
        """
        extras = [
            part for part in (code_of(self.module), values_of(self.module), sorted(self._layer_names.items()), self.outputs.key) if part
        ]
        return digest(self._weights.of(self.module), repr(self.module), self.preprocessing, *extras)

    def _probe(self, count: int, size: torch.Size | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return self.place(torch.randn(count, *(size or self.input_shape), generator=generator))

    def _first_pass(self) -> Recorded:
        """Return the pass of a noise image in the memory format that suits the module. Raises `ModelError` if it is not a classifier."""

        def call(images: Tensor) -> Recorded:
            with self.session(), seeded(self.device):
                return record(self.module, images.clone())

        def works(images: Tensor) -> bool:
            with suppress(Exception):
                return not has_more_rows(call(images).raw)
            return False

        images = self._probe(1)
        try:
            self.memory_format, first = memory_format(call, images, custom=bool(code_of(self.module)))
        except MemoryError:
            raise
        except Exception as error:  # a user's module may fail in any way
            raise failure(self.module, self.name, images, error, works) from error
        raw = first.raw
        # TorchScript modules have no hooks through which to read one entry of an output.
        unread = first.container and isinstance(self.module, torch.jit.ScriptModule)
        if (
            not isinstance(raw, Tensor)
            or raw.ndim not in (1, 2)
            or len(raw) != 1
            or not raw.numel()
            or not raw.is_floating_point()
            or unread
        ):
            raise not_logits(self.name, raw)
        self._returns_more = bool(first.container)
        return first
