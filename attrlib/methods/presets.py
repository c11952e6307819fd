"""Presets: the methods of published studies with their settings. A preset can be used in any list of methods."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from attrlib.errors import AttrlibError, SpecError
from attrlib.methods.base import METHODS, create
from attrlib.methods.differentiable import check_defined
from attrlib.models import NAMED, Classifier
from attrlib.registry import Paper
from attrlib.specs import MethodSpec, TargetSpec, parse_methods
from attrlib.targets import create as create_target
from attrlib.targets.classes import FINER

ALL = "all"
IDSDS_PAPER = Paper(
    "Hesse, Schaub-Meyer and Roth 2024", "Benchmarking the Attribution Quality of Vision Models", "https://arxiv.org/abs/2407.11910"
)
RAO_PAPER = Paper("Rao, Böhle and Schiele 2022", "Towards Better Understanding Attribution Methods", "https://arxiv.org/abs/2205.10435")
ERDEM_CODE = Paper("Erdem", "xai-correlation, the code of a study of metrics", "https://github.com/burnpiro/xai-correlation")

_NOISE = "samples=4:noise=1:unit=absolute"
_IDSDS = (
    ("Gradient", "Gradient"),
    ("IxG", "IxG"),
    ("IxG abs", "IxG:channels=sum-abs"),
    ("IxG-SG", f"SmoothGrad:of=IxG:{_NOISE}"),
    ("IxG-SG abs", f"SmoothGrad:of=IxG:{_NOISE}:channels=sum-abs"),
    ("IG", "IG:steps=50"),
    ("IG abs", "IG:steps=50:channels=sum-abs"),
    ("IG-U", "IG:steps=50:baseline=uniform"),
    ("IG-U abs", "IG:steps=50:baseline=uniform:channels=sum-abs"),
    ("IG-SG", f"SmoothGrad:of=IG:steps=50:{_NOISE}"),
    ("IG-SG abs", f"SmoothGrad:of=IG:steps=50:{_NOISE}:channels=sum-abs"),
    ("IG-SG-SQ", f"SmoothGrad Squared:of=IG:steps=50:{_NOISE}"),
    ("IG-SG-VG", f"VarGrad:of=IG:steps=50:{_NOISE}"),
    ("Grad-CAM", "Grad-CAM"),
    ("Grad-CAM++", "Grad-CAM++"),
    ("SG-CAM++", "Smooth Grad-CAM++:samples=4:std=0.3"),
    ("XGrad-CAM", "XGrad-CAM"),
    ("Layer-CAM", "Layer-CAM"),
    ("Score-CAM", "Score-CAM"),
    ("SS-CAM", "SS-CAM"),
    ("IS-CAM", "IS-CAM"),
    ("RISE", "RISE:samples=1000:cells=8:p=0.1"),
    ("RISE-U", "RISE-U:samples=1000:cells=8:p=0.1"),
    ("Rollout", "Rollout:start=1"),
    ("CheferLRP", "CheferLRP:start=1"),
    ("Grad-CAM (ViT)", "Attention Grad-CAM"),
    ("B-cos", "B-cos"),
    ("BagNet", "BagNet"),
)
_RAO = (
    ("Gradient", "Gradient:channels=abs-sum"),
    ("Guided Backprop", "Guided Backprop:channels=abs-sum"),
    ("IxG", "IxG"),
    ("IntGrad", "IG:steps=20"),
    ("SmoothGrad", "SmoothGrad:samples=15"),
    ("Grad-CAM", "Grad-CAM"),
    ("Grad-CAM++", "Grad-CAM++"),
    ("Layer-CAM", "Layer-CAM"),
    ("Ablation-CAM", "Ablation-CAM"),
    ("Score-CAM", "Score-CAM:weighting=probability"),
    ("Occlusion", "Occlusion"),
    ("RISE", "RISE:samples=1000:cells=6:p=0.1"),
)
_ERDEM = (
    ("Saliency", "Gradient:channels=abs-sum"),
    ("Deconvolution", "Deconvolution"),
    ("Guided Backprop", "Guided Backprop"),
    ("Guided Grad-CAM", "Guided Grad-CAM:cam=First"),
    ("IG", "IG:steps=25"),
    ("GradientSHAP", "GradientSHAP"),
    ("SmoothGrad", "SmoothGrad:samples=8"),
)


@dataclass(frozen=True)
class Preset:
    """The methods of a study with its settings.

    A setting that the study does not report is the default of the method. A spec without a layer is computed at the method's default layer.

    Attributes:
        name: Name of the preset in lists of methods.
        title: Title in menus.
        summary: Description in one line.
        paper: The study.
        members: Pairs of the study's name for a method and its spec.
    """

    name: str
    title: str
    summary: str
    paper: Paper
    members: tuple[tuple[str, MethodSpec], ...]

    @property
    def methods(self) -> tuple[MethodSpec, ...]:
        """Return the specs, in the study's order."""
        return tuple(spec for _, spec in self.members)


def _members(pairs: Iterable[tuple[str, str]], layers: Iterable[str] = ("",)) -> tuple[tuple[str, MethodSpec], ...]:
    return tuple((f"{label} {layer}".strip(), MethodSpec.parse(text, layer)) for label, text in pairs for layer in layers)


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "idsds",
            "As in IDSDS",
            "The 23 methods for any network and those of ViT, B-cos and BagNet; CAMs at Final",
            IDSDS_PAPER,
            _members(_IDSDS),
        ),
        Preset(
            "rao",
            "As in Rao et al.",
            "ML-Att: every method at Input, Middle and Final, and SmoothGrad, with which the paper compares",
            RAO_PAPER,
            _members(_RAO, NAMED),
        ),
        Preset("erdem", "As in Erdem's study", "The methods whose infidelity and sensitivity it compares", ERDEM_CODE, _members(_ERDEM)),
        Preset(
            "finer-cam",
            "Finer-CAM",
            "Grad-CAM of the contrast of the class with the three most similar ones",
            FINER,
            _members([("Finer-CAM", "Grad-CAM:target=contrast")]),
        ),
    )
}


def list_presets() -> list[Preset]:
    """Return all presets. Their names can be used in lists of methods: `--methods idsds`."""
    return list(PRESETS.values())


def named_methods() -> dict[str, MethodSpec]:
    """Return the methods that are others with settings, by their published names: the presets of a single method."""
    return {preset.title: preset.methods[0] for preset in PRESETS.values() if len(preset.members) == 1}


def read_method(text: str, layer: str = "") -> MethodSpec:
    """Parse a method in text form, or the name of a preset of a single method.

    Args:
        text: The text, or a name such as `Finer-CAM`, in any case.
        layer: Layer of a method that names none.

    Raises:
        SpecError: The text is malformed.
    """
    preset = PRESETS.get(text.strip().lower())
    if preset is None or len(preset.members) != 1:
        return MethodSpec.parse(text, layer)
    spec = preset.methods[0]
    return replace(spec, layer=spec.layer or layer)


def read_methods(text: str, layer: str = "", target: TargetSpec = TargetSpec()) -> tuple[MethodSpec, ...]:  # noqa: B008  it is immutable
    """Parse a comma-separated list of methods.

    Args:
        text: Methods in text form, names of presets (in any case), or `all`.
        layer: Layer of every method that names none. It does not apply to presets, which define their layers.
        target: Target of every method that names none.

    Returns:
        The specs in order, without duplicates.

    Raises:
        SpecError: If the list is empty or a method in it cannot be parsed.
    """
    specs: list[MethodSpec] = []
    for part in (part.strip() for part in text.split(",")):
        preset = PRESETS.get(part.lower())
        if preset:
            specs += (replace(spec, target=target) if spec.target == TargetSpec() else spec for spec in preset.methods)
        elif part == ALL:
            specs += (MethodSpec(name, layer, target=target) for name in METHODS)
        elif part:
            specs += parse_methods(part, layer, target)
    if not specs:
        raise SpecError(f"no method given; write for example IG,Grad-CAM@Final, or {', '.join(PRESETS)} or {ALL}")
    return tuple(dict.fromkeys(specs))


def names_many(text: str) -> bool:
    """Return whether a list of methods contains a preset or `all`.

    Methods that such a list adds are skipped if they are not defined for a model.
    """
    return any(part.strip() == ALL or part.strip().lower() in PRESETS for part in text.split(","))


def defined(model: Classifier, methods: Iterable[MethodSpec]) -> tuple[tuple[MethodSpec, ...], list[str]]:
    """Select the methods that are defined for a model.

    Args:
        model: The classifier.
        methods: The methods to choose from.

    Returns:
        The methods that are defined, and a message for each of the others.

    Raises:
        SpecError: If no method is defined for the model.
    """
    selected: list[MethodSpec] = []
    reasons: list[str] = []
    for spec in methods:
        method = create(spec)
        try:
            check_defined(method, model, model.layer(spec.layer or method.default_layer), create_target(spec.target))
            selected.append(spec)
        except AttrlibError as error:
            reasons.append(f"{spec} is left out: {error}")
    if not selected:
        raise SpecError(f"none of these methods is defined for {model.name}: {reasons[0] if reasons else 'no methods given'}")
    return tuple(selected), reasons
