"""Specs of aggregate views (AggAtt): a run of one protocol, and how its maps are sorted and averaged in bins."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from attrlib.registry import nested, param
from attrlib.specs.codec import Spec, options_of
from attrlib.specs.method import MethodSpec
from attrlib.specs.protocol import ProtocolSpec
from attrlib.specs.run import RunSpec
from attrlib.specs.view import View, check_kernel

AVERAGES = ("positive", "signed")


@dataclass(frozen=True)
class AggregateView(View):
    """How the maps of a run are smoothed and averaged. No option causes an attribution to be recomputed."""

    cell: int = param(0, "Target cell of the grids, counted row by row from 0", low=0, high=15)
    smoothing: int = param(
        0,
        "Kernel size K of Gaussian smoothing at input resolution, sigma = K/4, applied to the signed maps before scoring and "
        "averaging; inside the network the kernel covers the same share of the image; odd, or 0 for none",
        low=0,
        high=257,
        check=check_kernel,
    )
    average: str = param("positive", "Average the positive part max(a, 0), or the signed values", choices=AVERAGES)

    def kernel(self, side: int, full: int) -> int:
        """Return the kernel size for maps of another size than the input: the odd number nearest to K side / full.

        K = 129 at 224 px is 17 at 28 x 28 and 9 at 14 x 14, as in the figures of Rao et al.

        Args:
            side: Side of the maps, in pixels.
            full: Side of the input, in pixels.

        Returns:
            The kernel size, 0 for no smoothing.
        """
        size = 2 * round((self.smoothing * side / full - 1) / 2) + 1
        return size if self.smoothing > 1 and size > 1 else 0


def _parse_setting(text: str) -> tuple[ProtocolSpec, ...]:
    return (ProtocolSpec.parse(text),)


@dataclass(frozen=True)
class AggregateSpec(Spec):
    """A run of one protocol, and how its maps are averaged."""

    command: ClassVar[str] = "aggregate"
    out: ClassVar[str] = "aggregated"
    noun: ClassVar[str] = "aggregate view"

    run: RunSpec = nested(
        RunSpec,
        without=("fast", "ci_width", "deletion_tuned", "filter_models"),
        instead={
            "protocols": dict(
                name="setting",
                flag="setting",
                read=_parse_setting,
                help="gridpg, difull, dipart, or a protocol on single images",
                missing="no setting given: add for example --setting difull",
            )
        },
    )
    view: AggregateView = nested(AggregateView)

    @property
    def setting(self) -> ProtocolSpec:
        """Return the protocol of the run."""
        return self.run.protocols[0]

    def snippet(self) -> str:
        """Return equivalent Python code."""
        run = self.run
        view = self.view.keywords([p.name for p in options_of(AggregateView)]).removeprefix(", ")
        options = run.keywords([p.path[-1] for p in options_of(RunSpec)])
        return "\n".join(
            [
                "import attrlib",
                "",
                f"model = attrlib.load_model({run.model.arguments()})",
                run.data_line(),
                f"methods = {[str(m) for m in run.methods]}",
                f"result = attrlib.compare([{str(self.setting)!r}], model, methods, data{options})",
                "maps = attrlib.Aggregation(result.spec, model, data, attrlib.open_store())",
                f"rows = [maps.row(method, attrlib.AggregateView({view})) for method in result.spec.methods]",
                "for row in rows:",
                "    print(row.method, row.summary.mean, row.aggregate.sizes)",
            ]
        )


def at_layers(methods: Sequence[MethodSpec], layers: Sequence[str]) -> tuple[MethodSpec, ...]:
    """Expand methods to layers: each method that names no layer is used at each of `layers`.

    Args:
        methods: The methods. A method that names a layer keeps it.
        layers: Names of layers. If empty, each method is used at its default layer.

    Returns:
        The methods in order, each at all its layers, without duplicates.
    """
    return tuple(dict.fromkeys(replace(m, layer=m.layer or layer) for m in methods for layer in layers or [""]))
