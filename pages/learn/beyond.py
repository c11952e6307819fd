"""Links from a lesson to the page that does the same in full, with all settings written out."""

from collections.abc import Sequence
from urllib.parse import urlencode

from attrlib.specs import AggregateSpec, AggregateView, ExplainSpec, ModelSpec, RunSpec, parse_methods, parse_protocols
from pages.inspect.choice import DEFAULT
from pages.learn.context import DATA
from pages.learn.lesson import Beyond
from pages.scores.choice import Wanted


def inspect(methods: str, tool: str = "") -> Beyond:
    """Return a link to Inspect, on a photo and the embedded model, with one of its tools open."""
    spec = ExplainSpec(DEFAULT.model, DEFAULT.image, parse_methods(methods))
    return Beyond("", "Inspect a photo", spec.link() + (f"&tool={tool}" if tool else ""))


def scores(models: Sequence[str], protocols: str, methods: str, limit: int = 48) -> Beyond:
    """Return a link to Scores, on the birds."""
    run = RunSpec(ModelSpec(models[0]), DATA, parse_protocols(protocols), parse_methods(methods), limit)
    wanted = Wanted(tuple(map(ModelSpec, models)), run)
    return Beyond("scores", "Score many birds", "?" + urlencode(wanted.link(), doseq=True))


def aggregate(model: str, setting: str, methods: str, limit: int = 50, smoothing: int = 0) -> Beyond:
    """Return a link to Aggregate, on the birds."""
    run = RunSpec(ModelSpec(model), DATA, parse_protocols(setting), parse_methods(methods), limit)
    return Beyond("aggregate", "Aggregate many grids", AggregateSpec(run, AggregateView(smoothing=smoothing)).link())
