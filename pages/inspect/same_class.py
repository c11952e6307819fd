"""Classes that targets name: those of one model in another, by index and name or by name alone, and their names."""

from dataclasses import replace

from attrlib.errors import AttrlibError, TargetError
from attrlib.models import Classifier
from attrlib.registry import params_of
from attrlib.specs import LOGIT, MethodSpec
from attrlib.targets import TARGETS, short
from attrlib.targets.base import class_name
from attrlib.targets.classes import JOIN


def same_class(model: Classifier, target: int, origin: Classifier) -> int | None:
    """Return the class of `origin` in another model, or None if it has none of that name."""
    if len(model.class_names) > target and model.class_names[target] == origin.class_names[target]:
        return target
    try:
        return model.target(class_name(origin, target))
    except AttrlibError:
        return None


def for_model(method: MethodSpec, model: Classifier, origin: Classifier) -> MethodSpec:
    """Return a method whose target names the same classes for a model as it does for `origin`.

    Raises:
        AttrlibError: If `origin` or the model has no such class.
    """
    if model is origin:
        return method
    values = method.target.values
    for param in params_of(TARGETS[method.target.name]):
        if param.names in ("class", "classes") and values.get(param.name):
            values[param.name] = JOIN.join(_translated(part, model, origin) for part in str(values[param.name]).split(JOIN))
    return replace(method, target=replace(method.target, params=tuple(values.items())))


def spoken(method: MethodSpec, model: Classifier) -> str:
    """Return the target of a method in its shortest text form with the names of classes, or an empty text for the logit."""
    if method.target.name == LOGIT:
        return ""
    values = short(method.target).values
    for param in params_of(TARGETS[method.target.name]):
        if param.names in ("class", "classes") and values.get(param.name):
            values[param.name] = JOIN.join(class_name(model, model.target(part)) for part in str(values[param.name]).split(JOIN))
    return str(replace(method.target, params=tuple(values.items())))


def _translated(text: str, model: Classifier, origin: Classifier) -> str:
    target = origin.target(text)
    same = same_class(model, target, origin)
    if same is None:
        raise TargetError(f"{model.name} has no class {class_name(origin, target)}, which the target names; choose another target")
    return str(same)
