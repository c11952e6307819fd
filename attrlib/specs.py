"""Frozen specs: what is to be computed and shown, in one vocabulary for the library, the command line, links and manifests."""

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlencode

from attrlib.errors import SpecError, unknown
from attrlib.model_spec import LINK, ModelSpec, read_model
from attrlib.registry import Value
from attrlib.views import ViewSpec

NUMERICS = 2
"""Version of the numerics: raised when any method's values change, so that nothing stale is ever read from a cache."""


def digest(*parts: object) -> str:
    """A content digest (32 hex digits) of JSON values, specs and byte strings."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part if isinstance(part, bytes | memoryview) else canonical(part).encode()
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()


def canonical(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, specs as objects."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain, allow_nan=False)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} has no canonical JSON")


@dataclass(frozen=True)
class MethodSpec:
    """A method at a layer with its parameters; as text `NAME@LAYER:key=value:key=value`, for example `IG@Final:steps=20`.

    An empty layer stands for the method's own default until `attrlib.methods.resolve` fills it in.
    """

    name: str
    layer: str = ""
    params: tuple[tuple[str, Value], ...] = ()

    @classmethod
    def parse(cls, text: str, layer: str = "") -> Self:
        """Reads the text form; `layer` is used where the text names none. Values stay text until `attrlib.methods.resolve`."""
        head, params = _read_pairs(text)
        name, _, own_layer = head.partition("@")
        if not name.strip():
            raise SpecError(f"{text[:80]!r} names no method; write NAME, NAME@LAYER or NAME@LAYER:key=value, as in IG@Final:steps=20")
        if "@" in own_layer:
            raise SpecError(f"{text[:80]!r} names two layers; write NAME@LAYER")
        return cls(name.strip(), own_layer.strip() or layer, params)

    def __str__(self) -> str:
        return f"{self.name}{'@' if self.layer else ''}{self.layer}{_write_pairs(self.params)}"

    @property
    def values(self) -> dict[str, Value]:
        """The parameters by name."""
        return dict(self.params)


@dataclass(frozen=True)
class ProtocolSpec:
    """A protocol with its parameters; as text `NAME:key=value`, for example `idsds:grid=4:baseline=blur`."""

    name: str
    params: tuple[tuple[str, Value], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the text form. Values stay text until `attrlib.protocols.resolve`."""
        head, params = _read_pairs(text)
        if not head.strip() or "@" in head:
            raise SpecError(f"{text[:80]!r} names no protocol; write NAME or NAME:key=value, as in difull:grid=3")
        return cls(head.strip(), params)

    def __str__(self) -> str:
        return f"{self.name}{_write_pairs(self.params)}"

    @property
    def values(self) -> dict[str, Value]:
        """The parameters by name."""
        return dict(self.params)


def _read_pairs(text: str) -> tuple[str, tuple[tuple[str, Value], ...]]:
    """What stands before the first colon, and the key=value pairs behind it."""
    head, *pairs = text.strip().split(":")
    params: list[tuple[str, Value]] = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if key.strip() in dict(params):
            raise SpecError(f"{key.strip()[:40]!r} is given twice in {text[:80]!r}")
        if not equals or not key.strip():
            raise SpecError(f"{pair[:40]!r} in {text[:80]!r} is not key=value; write for example IG:steps=20")
        params.append((key.strip(), value.strip()))
    return head, tuple(params)


def _write_pairs(params: tuple[tuple[str, Value], ...]) -> str:
    return "".join(f":{key}={_text(value)}" for key, value in params)


def _text(value: Value) -> str:
    return "auto" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class ExplainSpec:
    """One picture explained by several methods, and how it is shown: what a link, a command line or a manifest says."""

    model: ModelSpec
    image: str
    methods: tuple[MethodSpec, ...]
    target: int | None = None
    seed: int = 0
    view: ViewSpec = field(default_factory=ViewSpec)

    def link(self) -> str:
        """The query string that restores this view. Every value is written out: a later change of a default changes no link."""
        fields: dict[str, Any] = self.model.fields() | {"image": self.image}
        fields["target"] = "predicted" if self.target is None else self.target
        fields["methods"] = ",".join(map(str, self.methods))
        fields["seed"] = self.seed
        fields |= self.view.fields()
        return "?" + urlencode(fields, safe="@:,=")

    def cli(self, out: str = "explained") -> str:
        """The command line that computes the same, into the folder `out`."""
        words = [
            "python",
            "-m",
            "attrlib",
            "explain",
            *self.model.flags(),
            "--image",
            self.image,
            "--methods",
            ",".join(map(str, self.methods)),
        ]
        if self.target is not None:
            words += ["--target", str(self.target)]
        if self.seed:
            words += ["--seed", str(self.seed)]
        return shlex.join([*words, *self.view.flags(), "--out", out])

    def snippet(self) -> str:
        """Python that computes the same maps."""
        lines = [
            "import attrlib",
            "",
            f"model = attrlib.load_model({self.model.arguments()})",
            f"photo = attrlib.open_image({self.image!r})",
            "maps = {",
        ]
        lines += [
            f"    {str(m)!r}: attrlib.explain(model, photo, {str(m)!r}, target={self.target}, seed={self.seed}).maps," for m in self.methods
        ]
        lines += ["}"]
        if self.view.smoothing:
            lines += [
                f"size = model.input_size\nsmooth = {{k: attrlib.smooth(attrlib.resize(m, size), {self.view.smoothing}) for k, m in maps.items()}}"
            ]
        return "\n".join(lines)


@dataclass(frozen=True)
class RunSpec:
    """Methods judged by protocols on a model and a data set: what a score, a command line or a manifest says.

    `limit` counts items (images, or grids; None: all), chosen by `seed`, which also draws whatever is random. `width`, where
    given, stops a protocol as soon as the 95 % interval of every method is no wider. `fast` folds BatchNorm and
    computes many forward passes in bfloat16. `classes` says
    how the classes of the data are found among the model's; `deletion_tuned`, that it was fine-tuned on deleted patches. Grids are
    made of images that the `filter_models` classify with the same confidence, too, so that several models are compared on the same ones.
    """

    model: ModelSpec
    data: str
    protocols: tuple[ProtocolSpec, ...]
    methods: tuple[MethodSpec, ...]
    limit: int | None = None
    seed: int = 0
    fast: bool = False
    width: float | None = None
    classes: str = "auto"
    deletion_tuned: bool = False
    filter_models: tuple[ModelSpec, ...] = ()

    def cli(self) -> str:
        """The command line that computes the same."""
        words = ["python", "-m", "attrlib", "score", "--protocol", ",".join(map(str, self.protocols)), *self.model.flags()]
        words += ["--methods", ",".join(map(str, self.methods)), "--data", self.data]
        words += ["--limit", str(self.limit)] if self.limit is not None else []
        words += ["--seed", str(self.seed)] if self.seed else []
        words += ["--fast"] if self.fast else []
        words += ["--width", f"{self.width:g}"] if self.width is not None else []
        words += ["--classes", self.classes] if self.classes != "auto" else []
        words += ["--deletion-tuned"] if self.deletion_tuned else []
        words += ["--filter-models", ",".join(own.text for own in self.filter_models)] if self.filter_models else []
        return shlex.join(words)

    def snippet(self) -> str:
        """Python that computes the same."""
        model = self.model.arguments() + (", deletion_tuned=True" if self.deletion_tuned else "")
        options = {"limit": self.limit, "seed": self.seed, "fast": self.fast, "width": self.width, "classes": self.classes}
        given = "".join(f", {name}={value!r}" for name, value in options.items() if value != getattr(type(self), name))
        if self.filter_models:
            given += f", filter_models=[{', '.join(f'attrlib.load_model({own.arguments()})' for own in self.filter_models)}]"
        lines = ["import attrlib", "", f"model = attrlib.load_model({model})", f"data = attrlib.load_dataset({self.data!r})"]
        lines += [f"protocols = {[str(p) for p in self.protocols]}", f"methods = {[str(m) for m in self.methods]}"]
        lines += [f"result = attrlib.compare(protocols, model, methods, data{given})", "for row in result.table():", "    print(row)"]
        return "\n".join(lines)


def read_run(fields: Mapping[str, Any]) -> RunSpec:
    """The run whose fields these are, as JSON holds them. Raises `SpecError` for anything else."""
    try:
        return RunSpec(
            ModelSpec.read(fields["model"]),
            str(fields["data"]),
            tuple(ProtocolSpec(p["name"], tuple((k, v) for k, v in p["params"])) for p in fields["protocols"]),
            tuple(MethodSpec(m["name"], m["layer"], tuple((k, v) for k, v in m["params"])) for m in fields["methods"]),
            **{name: fields[name] for name in ("limit", "seed", "fast", "width", "classes", "deletion_tuned")},
            filter_models=tuple(ModelSpec.read(own) for own in fields["filter_models"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SpecError(f"this is no run ({type(error).__name__}: {str(error)[:80]}); begin it anew") from None


def read_link(fields: Mapping[str, str], default: ExplainSpec) -> tuple[ExplainSpec, list[str]]:
    """The inverse of `ExplainSpec.link`, forgiving: what makes no sense keeps its default and is named in the list of problems."""
    problems: list[str] = []

    def read(name: str, parse: Callable[[str], Any], otherwise: Any) -> Any:
        try:
            return parse(fields[name]) if name in fields else otherwise
        except SpecError as error:
            problems.append(str(error))
            return otherwise

    options = {p.name: p for p in ViewSpec.options()}
    view: dict[str, Value] = {n: read(n, p.parse, getattr(default.view, n)) for n, p in options.items() if n != "smoothing"}
    smoothing = read("smoothing", lambda text: ViewSpec.parse({"smoothing": text}).smoothing, default.view.smoothing)
    unknown_fields = set(fields) - {*LINK, "image", "target", "methods", "seed"} - set(options)
    problems += [unknown("field of the link", name, [*LINK, "image", "target", "methods", *options]) for name in sorted(unknown_fields)]
    spec = ExplainSpec(
        model=read_model(fields, default.model, problems),
        image=fields.get("image") or default.image,
        methods=read("methods", lambda text: parse_methods(text) if text else (), default.methods),
        target=read("target", lambda text: None if text == "predicted" else whole(text, "target"), default.target),
        seed=read("seed", lambda text: whole(text, "seed"), default.seed),
        view=ViewSpec.parse(view | {"smoothing": smoothing}),
    )
    return spec, list(dict.fromkeys(problems))


def parse_protocols(text: str) -> tuple[ProtocolSpec, ...]:
    """A comma-separated list of protocols in text form, each once, in order."""
    specs = tuple(dict.fromkeys(ProtocolSpec.parse(part) for part in text.split(",") if part.strip()))
    if not specs:
        raise SpecError("no protocol given; write for example sds,difull:grid=3")
    return specs


def parse_methods(text: str, layer: str = "") -> tuple[MethodSpec, ...]:
    """A comma-separated list of methods in text form, each once, in order."""
    specs = tuple(dict.fromkeys(MethodSpec.parse(part, layer) for part in text.split(",") if part.strip()))
    if not specs:
        raise SpecError("no method given; write for example IG,Grad-CAM@Final")
    return specs


def whole(text: object, name: str) -> int:
    """A non-negative whole number below 2**31, or `SpecError`."""
    try:
        number = int(str(text))
    except ValueError:
        number = -1
    if not 0 <= number < 2**31:
        raise SpecError(f"{name}={str(text)[:40]!r} is not valid: expected a whole number from 0")
    return number
