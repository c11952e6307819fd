"""Spec of a search over a method's parameters, judged by a protocol on a held-out part of the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from attrlib.errors import SpecError
from attrlib.registry import REQUIRED, nested, param
from attrlib.specs.codec import Spec, options_of
from attrlib.specs.method import MethodSpec
from attrlib.specs.model import ModelSpec
from attrlib.specs.protocol import ProtocolSpec
from attrlib.specs.run import DATA_HELP, RunSpec, classes_param, seed_param
from attrlib.specs.space import Dimension, check_space, parse_space
from attrlib.specs.text import MOST, write_list

SAMPLERS = ("grid", "random")


def _parse_protocol(text: str) -> ProtocolSpec:
    if "," in text:
        raise SpecError(
            f"{text[:80]!r} is not one protocol: the best setting differs between protocols; tune for each in a search of its own"
        )
    return ProtocolSpec.parse(text)


def _parse_method(text: str) -> MethodSpec:
    if "," in text:
        raise SpecError(f"{text[:80]!r} is not one method: tune each in a search of its own; they share what is stored")
    return MethodSpec.parse(text)


@dataclass(frozen=True)
class TuneSpec(Spec):
    """A search over a method's parameters on some items of the data; the best setting is judged on other, held-out items.

    `method` is the default with which all settings are compared: the parameters that it names are kept, unless `space` names them, too.
    """

    command: ClassVar[str] = "tune"
    noun: ClassVar[str] = "search"

    model: ModelSpec = nested(ModelSpec)
    data: str = param(
        REQUIRED,
        DATA_HELP,
        missing="no data given: add for example --data FOLDER; python -m attrlib datasets lists named data sets",
    )
    protocol: ProtocolSpec = param(
        REQUIRED,
        "The objective: NAME or NAME:key=value",
        read=_parse_protocol,
        missing="no protocol given: add for example --protocol sds; python -m attrlib protocols lists them",
    )
    method: MethodSpec = param(
        REQUIRED,
        "The method to tune, at its default setting: NAME, or NAME@LAYER:key=value",
        read=_parse_method,
        missing="no method given: add for example --method IG; python -m attrlib methods lists them",
    )
    space: tuple[Dimension, ...] = param(
        (),
        "Values to try, separated by commas: NAME=VALUE/VALUE, NAME=LOW..HIGH, NAME=LOW..HIGH:log, layer=Input/Final; by default the declared "
        "choices of all parameters, and numbers around their defaults",
        read=parse_space,
        write=write_list,
        check=check_space,
    )
    limit: int = param(16, "Number of images or grids for the search, drawn with the seed", low=2, high=MOST, label="Items")
    held_out: int = param(
        64,
        "Number of other images or grids, drawn with the seed, on which the best setting is judged",
        low=2,
        high=MOST,
        label="Held-out items",
    )
    trials: int = param(20, "Maximum number of settings to try besides the default", low=1, high=10_000)
    sampler: str = param(
        "grid", "Try the grid of all values, or a sample of it if it is larger than the number of trials; or any values of the ranges, at random",
        choices=SAMPLERS,
    )  # fmt: skip
    halving: bool = param(False, "Score all settings on a part of the items, then the better half on twice as many, and so on")
    seed: int = seed_param()
    classes: str = classes_param()
    deletion_tuned: bool = param(
        False,
        "The checkpoint is fine-tuned on deleted patches, as idsds requires; shipped and published checkpoints are recognised",
        label="Checkpoints are fine-tuned on deleted patches",
    )

    def run(self, methods: Sequence[MethodSpec], limit: int) -> RunSpec:
        """Return the run that scores some settings of the method on the first items."""
        return RunSpec(
            self.model,
            self.data,
            (self.protocol,),
            tuple(methods),
            limit,
            self.seed,
            classes=self.classes,
            deletion_tuned=self.deletion_tuned,
        )

    def cli(self, out: str = "") -> str:
        run = self.run([self.method], self.limit)
        return super().cli(out) + (f"  # {run.only_in_memory('attrlib.tune')}" if run.in_memory else "")

    def snippet(self) -> str:
        """Return equivalent Python code."""
        model = self.model.arguments() + self.keywords(["deletion_tuned"])
        space = f", space={write_list(self.space)!r}" if self.space else ""
        options = self.keywords([p.name for p in options_of(TuneSpec) if p.name != "deletion_tuned"])
        return "\n".join(
            [
                "import attrlib",
                "",
                f"model = attrlib.load_model({model})",
                self.run([self.method], self.limit).data_line("attrlib.tune"),
                f"result = attrlib.tune(model, data, {str(self.method)!r}, {str(self.protocol)!r}{space}{options})",
                "print(result.finding)",
            ]
        )
