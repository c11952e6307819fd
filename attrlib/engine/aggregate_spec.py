"""What an aggregate view shows: link, command line and Python of exactly that view."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from urllib.parse import urlencode

from attrlib.errors import SpecError, unknown
from attrlib.model_spec import LINK, read_model
from attrlib.registry import param
from attrlib.specs import MethodSpec, ProtocolSpec, RunSpec, parse_methods, whole
from attrlib.views import View

AVERAGES = ("positive", "signed")


@dataclass(frozen=True)
class AggregateView(View):
    """How the maps of a run are smoothed and averaged. None of it computes an attribution anew."""

    cell: int = param(0, "The target cell of the grids, row by row from 0", low=0, high=15)
    smoothing: int = param(
        0,
        "Gaussian smoothing K x K at the input's size, sigma = K/4, of the signed maps, before scores and averages; inside the "
        "network the kernel covers the same share of the picture; 0 is off, else odd",
        low=0,
        high=257,
    )
    average: str = param("positive", "Average max(a, 0), or both signs", choices=AVERAGES)

    def kernel(self, side: int, full: int) -> int:
        """K for maps whose side is `side` where the input's is `full`: the nearest odd number to K side / full, 0 for none.

        K = 129 at 224 px is 17 at 28 x 28 and 9 at 14 x 14, as in the figures of Rao et al.
        """
        size = 2 * round((self.smoothing * side / full - 1) / 2) + 1
        return size if self.smoothing > 1 and size > 1 else 0


@dataclass(frozen=True)
class AggregateSpec:
    """A run of one protocol, and how its maps are averaged."""

    run: RunSpec
    view: AggregateView = field(default_factory=AggregateView)

    @property
    def setting(self) -> ProtocolSpec:
        """The protocol."""
        return self.run.protocols[0]

    def link(self) -> str:
        """The query string that restores this view. Every value is written out: a later change of a default changes no link."""
        run = self.run
        fields: dict[str, Any] = {"data": run.data, "setting": str(self.setting)} | run.model.fields()
        fields |= dict(methods=",".join(map(str, run.methods)), limit=run.limit or "all", seed=run.seed)
        fields |= self.view.fields()
        return "?" + urlencode(fields, safe="@:,=/")

    def cli(self) -> str:
        """The command line that computes the same."""
        run = self.run
        words = ["python", "-m", "attrlib", "aggregate", "--data", run.data, "--setting", str(self.setting), *run.model.flags()]
        words += ["--methods", ",".join(map(str, run.methods))]
        words += ["--limit", str(run.limit)] if run.limit is not None else []
        words += ["--seed", str(run.seed)] if run.seed else []
        words += ["--classes", run.classes] if run.classes != "auto" else []
        return shlex.join([*words, *self.view.flags(), "--out", "aggregated"])

    def snippet(self) -> str:
        """Python that computes the same."""
        run, view = self.run, self.view
        given = {"cell": view.cell, "smoothing": view.smoothing, "average": view.average}
        default = AggregateView()
        options = ", ".join(f"{name}={value!r}" for name, value in given.items() if value != getattr(default, name))
        limits = "".join(f", {n}={v!r}" for n, v in (("limit", run.limit), ("seed", run.seed)) if v)
        return "\n".join(
            [
                "import attrlib",
                "from attrlib.engine.aggregate_spec import AggregateView",
                "from attrlib.aggregation.view import Aggregation",
                "from attrlib.store import open_store",
                "",
                f"model = attrlib.load_model({run.model.arguments()})",
                f"data = attrlib.load_dataset({run.data!r})",
                f"methods = {[str(m) for m in run.methods]}",
                f"result = attrlib.compare([{str(self.setting)!r}], model, methods, data{limits})",
                "maps = Aggregation(result.spec, model, data, open_store())",
                f"rows = [maps.row(method, AggregateView({options})) for method in result.spec.methods]",
                "for row in rows:",
                "    print(row.method, row.summary.mean, row.aggregate.sizes)",
            ]
        )


def at_layers(methods: Sequence[MethodSpec], layers: Sequence[str]) -> tuple[MethodSpec, ...]:
    """Each method that names no layer at each of the layers, by default its own; method by method, each once."""
    return tuple(dict.fromkeys(replace(m, layer=m.layer or layer) for m in methods for layer in layers or [""]))


def read_aggregate_link(fields: Mapping[str, str], default: AggregateSpec) -> tuple[AggregateSpec, list[str]]:
    """The inverse of `AggregateSpec.link`, forgiving: what makes no sense keeps its default and is named in the list of problems."""
    problems: list[str] = []

    def read(name: str, parse: Callable[[str], Any], otherwise: Any) -> Any:
        try:
            return parse(fields[name]) if name in fields else otherwise
        except SpecError as error:
            problems.append(str(error))
            return otherwise

    known = ["data", "setting", *LINK, "methods", "limit", "seed", *(p.name for p in AggregateView.options())]
    problems += [unknown("field of the link", name, known) for name in sorted(set(fields) - set(known))]
    given: dict[str, object] = dict(vars(default.view))
    for option in AggregateView.options():
        given[option.name] = read(option.name, partial(_option, option.name), given[option.name])
    run = default.run
    run = replace(
        run,
        model=read_model(fields, run.model, problems),
        data=fields.get("data") or run.data,
        protocols=(read("setting", ProtocolSpec.parse, run.protocols[0]),),
        methods=read("methods", _methods, run.methods),
        limit=read("limit", lambda text: None if text == "all" else max(1, whole(text, "limit")), run.limit),
        seed=read("seed", lambda text: whole(text, "seed"), run.seed),
    )
    return AggregateSpec(run, AggregateView.parse(given)), list(dict.fromkeys(problems))


def _methods(text: str) -> tuple[MethodSpec, ...]:
    return parse_methods(text) if text else ()


def _option(name: str, text: str) -> object:
    return getattr(AggregateView.parse({name: text}), name)
