"""Spec of a study: its name and parameters, models, data and methods."""

from dataclasses import dataclass
from typing import ClassVar, Self

from attrlib.registry import REQUIRED, param, params_of
from attrlib.specs.codec import Reader, Spec
from attrlib.specs.method import MethodSpec, parse_methods
from attrlib.specs.model import ModelSpec, parse_model_specs, write_model_specs
from attrlib.specs.run import DATA_HELP, classes_param, seed_param
from attrlib.specs.text import Pairs, read_pairs, write_list, write_pairs


@dataclass(frozen=True)
class StudySpec(Spec):
    """A study on models and data.

    Without `models`, the study uses its default models. Without `methods`, it uses its default methods, at cheap settings. `params` are
    the parameters of the study, as text or typed values. In the text form they follow the name, as in `smoothing:limit=8`. `seed`
    chooses the items and seeds random methods and protocols.
    """

    command: ClassVar[str] = "study"
    noun: ClassVar[str] = "study"

    study: str = param(
        REQUIRED, "A study: NAME or NAME:key=value, or all; python -m attrlib studies lists them", positional=True,
        missing="no study given: add for example ranking; python -m attrlib studies lists them",
    )  # fmt: skip
    params: Pairs = ()
    models: tuple[ModelSpec, ...] = param(
        (),
        "Separated by commas: NAME or ARCHITECTURE@CHECKPOINT, with @HxW for another input size; by default shipped models",
        read=parse_model_specs,
        write=write_model_specs,
    )
    data: str = param("birds", DATA_HELP)
    methods: tuple[MethodSpec, ...] = param(
        (),
        "Separated by commas, used at exactly these settings; by default the study's methods at cheap settings",
        read=parse_methods,
        write=write_list,
    )
    seed: int = seed_param()
    classes: str = classes_param()
    deletion_tuned: bool = param(
        False, "Checkpoints are fine-tuned on deleted patches, as idsds requires", label="Checkpoints are fine-tuned on deleted patches"
    )

    def __str__(self) -> str:
        return self.study + write_pairs(self.params)

    @classmethod
    def build(cls, reader: Reader, default: Self | None = None) -> Self:
        """Build the spec from a reader. The parameters are parsed from the text form of the study."""
        study, *others = params_of(cls)
        named = reader.value(study, REQUIRED if default is None else (default.study, default.params), read_pairs)
        rest = {p.name: reader.value(p, p.default if default is None else getattr(default, p.name)) for p in others}
        return cls(*named, **rest)

    def fields(self) -> dict[str, str]:
        """Return every field as text, with the parameters in the text form of the study."""
        return super().fields() | {"study": str(self)}

    def snippet(self) -> str:
        """Return equivalent Python code."""
        arguments = f", models={[m.text for m in self.models]}" if self.models else ""
        arguments += self.keywords(["data"])
        arguments += f", methods={[str(m) for m in self.methods]}" if self.methods else ""
        arguments += self.keywords(["seed", "classes", "deletion_tuned"])
        lines = ["import attrlib", "", f"result = attrlib.study({str(self)!r}{arguments})", "print(result.finding)"]
        return "\n".join([*lines, "for row in result.rows:", "    print(row)"])
