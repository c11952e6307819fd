"""Spec of a run: methods evaluated under protocols on a model and a data set."""

from dataclasses import dataclass
from typing import Any, ClassVar

from attrlib.registry import REQUIRED, nested, param
from attrlib.specs.codec import Spec, options_of
from attrlib.specs.method import MethodSpec, methods_param
from attrlib.specs.model import ModelSpec, parse_model_specs, write_model_specs
from attrlib.specs.protocol import ProtocolSpec, parse_protocols
from attrlib.specs.text import MOST, write_list

CLASSES = ("auto", "wnid", "name", "index", "order")
"""Ways to match the classes of the data to those of the model, see `attrlib.data.labels.match_classes`."""
DATA_HELP = "A name, a folder of class folders, or a CSV file"
IN_MEMORY = "memory:"
"""Prefix of the labels of data sets that exist only in memory, so that no name or path loads them."""


def seed_param() -> Any:
    """Declare the field for the seed of a run or a study."""
    return param(0, "Seed for choosing the items, and for random methods and protocols", low=0, high=MOST)


def classes_param() -> Any:
    """Declare the field for how the classes of the data are matched to those of the model."""
    return param(
        "auto",
        "How class folders are matched to the model's classes: automatically, or by WNID, name, index or order",
        choices=CLASSES,
        label="Classes of the data",
        noun="way to match classes",
    )


@dataclass(frozen=True)
class RunSpec(Spec):
    """Methods evaluated under protocols on a model and a data set, as in a score, a link, a command line or a manifest.

    A field with a default is an option. Adding one here adds it to the command line, the link, the snippet, the keyword
    arguments of `attrlib.score` and `attrlib.compare`, and the form of the page Scores; see CONTRIBUTING.md, "An option of a run".
    """

    command: ClassVar[str] = "score"
    noun: ClassVar[str] = "run"

    model: ModelSpec = nested(ModelSpec)
    data: str = param(
        REQUIRED,
        DATA_HELP,
        missing="no data given: add for example --data FOLDER; python -m attrlib datasets lists named data sets",
    )
    protocols: tuple[ProtocolSpec, ...] = param(
        REQUIRED,
        "Separated by commas: NAME or NAME:key=value, or all",
        read=parse_protocols,
        write=write_list,
        flag="protocol",
        missing="no protocol given: add for example --protocol sds; python -m attrlib protocols lists them",
    )
    methods: tuple[MethodSpec, ...] = methods_param()
    limit: int | None = param(
        None, "Maximum number of images or grids, drawn with the seed", low=1, high=MOST, auto="all", none="all", label="Items"
    )
    seed: int = seed_param()
    fast: bool = param(
        False,
        "Fold BatchNorm into convolutions, and run methods of many forward passes in bfloat16; the result reports the agreement with exact maps",
    )
    ci_width: float | None = param(
        None,
        "Stop a protocol as soon as the 95 % confidence interval of every method is at most this wide",
        above=0.0,
        auto="never",
        none="none",
        label="Stop at a 95 % CI of width",
    )
    classes: str = classes_param()
    deletion_tuned: bool = param(
        False,
        "The checkpoint is fine-tuned on deleted patches, as idsds requires; shipped and published checkpoints are recognised",
        label="Checkpoints are fine-tuned on deleted patches",
    )
    filter_models: tuple[ModelSpec, ...] = param(
        (),
        "Build grids only from images that these models also classify confidently: NAME or NAME@CHECKPOINT, separated by commas",
        read=parse_model_specs,
        write=write_model_specs,
    )

    def cli(self, out: str = "") -> str:
        return super().cli(out) + (f"  # {self.only_in_memory()}" if self.in_memory else "")

    @property
    def in_memory(self) -> bool:
        """Return whether the data set exists only in memory, so that no command, link or other process can load it."""
        return self.data.startswith(IN_MEMORY)

    def data_line(self, function: str = "attrlib.compare") -> str:
        """Return the line of Python code that loads the data set for a function."""
        return f"data = ...  # {self.only_in_memory(function)}" if self.in_memory else f"data = attrlib.load_dataset({self.data!r})"

    def only_in_memory(self, function: str = "attrlib.compare") -> str:
        """Return how to repeat a call of a function on a data set that exists only in memory."""
        return f"{self.data} is a data set in memory: load it in Python as before, and pass it to {function}"

    def snippet(self) -> str:
        """Return equivalent Python code."""
        model = self.model.arguments() + self.keywords(["deletion_tuned"])
        options = self.keywords([p.name for p in options_of(RunSpec) if p.name != "deletion_tuned"])
        if self.filter_models:
            options += f", filter_models=[{', '.join(f'attrlib.load_model({other.arguments()})' for other in self.filter_models)}]"
        lines = ["import attrlib", "", f"model = attrlib.load_model({model})", self.data_line()]
        lines += [f"protocols = {[str(p) for p in self.protocols]}", f"methods = {[str(m) for m in self.methods]}"]
        lines += [f"result = attrlib.compare(protocols, model, methods, data{options})", "for row in result.table():", "    print(row)"]
        return "\n".join(lines)
