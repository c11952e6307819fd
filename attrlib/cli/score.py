"""Score methods on a data set: `python -m attrlib score`."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from attrlib.analysis.funnybirds import LEGEND, NAMES, Dimensions, dimensions_of
from attrlib.cli.common import Cluster, DataRoots, Device, Json, Workers, command, duration, read_options
from attrlib.cli.events import run_showing
from attrlib.cli.shards import read_shard, score_shard
from attrlib.cli.status import show_status
from attrlib.data.datasets import Dataset, load_dataset
from attrlib.engine.evaluations import Refusal, by_reason
from attrlib.engine.executors.choice import executors
from attrlib.engine.plan import Plan, make_plan
from attrlib.engine.results import RunResult
from attrlib.engine.run import run
from attrlib.engine.shards import run_shard
from attrlib.engine.status import run_status
from attrlib.errors import SpecError
from attrlib.figures.leaderboard import LeaderboardRow
from attrlib.figures.numbers import json_value, number
from attrlib.methods import read_methods
from attrlib.models import Classifier, load_model
from attrlib.protocols import PROTOCOLS, create
from attrlib.registry import params_of
from attrlib.specs import IN_MEMORY, LOGIT, MethodSpec, ProtocolSpec, RunSpec, TargetSpec, flag_of, parse_protocols
from attrlib.specs.maps import maps_spec
from attrlib.store import Run, Store, open_store, parse_bytes
from attrlib.studies.trust import kind_of, recommend, shipped


@command(options=params_of(RunSpec))
def score(
    layer: Annotated[str, typer.Option("--layer", help="Layer for methods that name none: Input, Middle, Final or a module path.")] = "",
    method_target: Annotated[
        str, typer.Option("--method-target", help="Target of methods that name none: logit, probability or contrast, as in contrast:k=3.")
    ] = "",
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--maps", help="Maps made elsewhere, to be scored as a method: .npy, .npz, .h5, or a folder. May be given several times."
        ),
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", help="Memory budget, as in 4GB; by default half of the free memory.")
    ] = None,
    device: Device = "auto",
    workers: Workers = None,
    cluster: Cluster = None,
    data_root: DataRoots = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the last unfinished run.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print the estimated cost, and compute nothing.")] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            help="Compute a share of the items, INDEX/COUNT as in 3/64, and write it to files for `cache merge`; none for all items. "
            "By default the task of a Slurm array, outside of one all items.",
        ),
    ] = None,
    shard_dir: Annotated[
        Path | None, typer.Option("--shard-dir", help="Folder of the files of shards; by default shards in the cache folder.")
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Print what is done, claimed, failed and missing, and compute nothing.")] = False,
    as_json: Json = False,
    *,
    options: dict[str, str],
) -> None:
    """Score methods under protocols on a data set. Cached results are not computed again."""
    store = open_store()
    if resume and not {"protocols", "methods", "data"} & set(options):
        for flag in [
            *(flag_of(p) for p in params_of(RunSpec) if p.name in options),
            *(["--layer"] if layer else []),
            *(["--method-target"] if method_target else []),
            *(["--maps"] if maps else []),
        ]:
            raise SpecError(
                f"{flag} cannot be combined with --resume, which repeats the options of the last unfinished run; leave out {flag}"
            )
        spec = RunSpec.from_json(_unfinished(store).spec["spec"])
    else:
        foreign = tuple(dict.fromkeys(map(maps_spec, maps or ())))
        spec = read_options(
            RunSpec,
            options | ({"methods": options.get("methods", "")} if foreign else {}),
            protocols=_parse_protocols,
            methods=lambda text: (
                *(read_methods(text, layer, TargetSpec.parse(method_target or LOGIT)) if text or not foreign else ()),
                *foreign,
            ),
        )
    budget = None if max_memory is None else parse_bytes(max_memory, "max-memory")
    dataset = load_dataset(spec.data)
    classifier = load_model(spec.model.architecture, device, deletion_tuned=spec.deletion_tuned, **spec.model.options())
    others = [load_model(model.architecture, device, **model.options()) for model in spec.filter_models]
    share = read_shard(shard)
    folder = (shard_dir or store.folder / "shards").expanduser().absolute()
    if share is not None and not (plan or status):
        with_options = partial(run_shard, spec, share, classifier, dataset, store, folder, filter_models=others, max_memory=budget)
        with executors(workers, cluster, device, data_root or ()) as executor:
            score_shard(lambda on_progress: with_options(on_progress=on_progress, executor=executor), as_json)
        return
    run_plan = make_plan(spec, classifier, dataset, store, filter_models=others, max_memory=budget, shard=share)
    if status:
        show_status(run_status(run_plan, store, folder), as_json)
        return
    if plan:
        _show_plan(run_plan, as_json)
        return
    if run_plan.streams and not as_json:
        typer.echo(f"note: {run_plan.notes[-1]}", err=True)
    stopped = "stopped: all results so far are stored; resume with python -m attrlib score --resume"
    with executors(workers, cluster, device, data_root or ()) as executor:
        result = run_showing(lambda on_progress: run(run_plan, on_progress, executor), as_json, stopped)
    _report(result, dataset, _advice(result, classifier, dataset), as_json)


def _parse_protocols(text: str) -> tuple[ProtocolSpec, ...]:
    return parse_protocols(",".join(PROTOCOLS) if text == "all" else text)


def _unfinished(store: Store) -> Run:
    """Return the last unfinished run that the command line can resume. Raises `SpecError` if there is none."""
    runs = [r for r in store.runs() if r.state in ("running", "cancelled") and r.spec.get("kind") == "score"]
    runs = [r for r in runs if not r.spec["spec"]["model"]["architecture"].startswith("wrapped:")]
    runs = [r for r in runs if not r.spec["spec"]["data"].startswith(IN_MEMORY)]
    if not runs:
        raise SpecError("there is no run to resume: all stored runs have finished")
    return max(runs, key=lambda r: r.updated)


def _show_plan(plan: Plan, as_json: bool) -> None:
    estimate = plan.estimate()
    refused = [{"protocol": str(p), "method": str(m), "reason": why} for p, m, why in plan.refused]
    if as_json:
        fields = {
            "cached": plan.cached,
            "missing": plan.missing,
            "seconds": estimate.seconds,
            "bytes": estimate.nbytes,
            "upper_bound": plan.upper_bound,
        }
        typer.echo(json.dumps(fields | {"refused": refused, "notes": plan.notes}))
        return
    most = "at most " if plan.upper_bound else ""
    typer.echo(f"{plan.cached} results cached, {most}{plan.missing} missing")
    typer.echo(f"about {duration(estimate.seconds)} and {estimate.nbytes / 2**20:.0f} MB")
    _echo_notes(plan.notes, plan.refused)


def _advice(result: RunResult, model: Classifier, data: Dataset) -> str | None:
    """Return which protocols to trust on this kind of model, None if that is not known."""
    kind = kind_of(model)
    advice = recommend(kind, result.protocols, data.name, shipped()) if kind is not None else None
    return None if advice is None else advice.words


def _report(result: RunResult, data: Dataset, advice: str | None, as_json: bool) -> None:
    boards = {protocol: result.leaderboard(protocol) for protocol in result.protocols}
    dimensions = dimensions_of(result)
    refused = [{"protocol": str(p), "method": str(m), "reason": why} for p, m, why in result.refused]
    if as_json:
        scores = [
            row.values()
            | {"values": score.values.tolist(), "ids": score.ids, "names": score.names(data)}
            | _fields(dimensions.get(protocol, {}).get(score.method))
            for protocol, rows in boards.items()
            for row in rows
            if (score := result.score(protocol, row.method)) is not None
        ]
        fields = {"cli": result.spec.cli(), "computed": result.computed, "cached": result.cached, "seconds": result.seconds}
        fields |= {"scores": scores, "refused": refused, "notes": result.notes, "agreement": result.agreement}
        fields["advice"] = advice
        typer.echo(json.dumps(json_value(fields)))
        return
    for protocol, rows in boards.items():
        chance = "" if rows[0].chance is None else f", chance {rows[0].chance:g}"
        better = "higher" if create(protocol).higher_is_better else "lower"
        typer.echo(f"{protocol}: {better} is better{chance}")
        for row in rows:
            typer.echo(_line(row))
        if protocol in dimensions:
            _echo_dimensions(dimensions[protocol])
    if advice is not None:
        typer.echo(advice)
    for method, value in result.agreement.items():
        typer.echo(f"note: fast {method}: rank correlation {value:.3f} with the exact maps")
    _echo_notes(result.notes, result.refused)
    typer.echo(f"{result.computed} computed, {result.cached} cached, {duration(result.seconds)}")


def _line(row: LeaderboardRow) -> str:
    interval = "–" if math.isnan(row.low) else f"[{number(row.low, 4)}, {number(row.high, 4)}]"
    undefined = f", {row.undefined} undefined" if row.undefined else ""
    seconds = "" if math.isnan(row.seconds) else f"  {row.seconds:.3f} s per map"
    return f"  {row.ranks:>6}  {row.method:36} {number(row.mean, 4):>8} {interval:20} n={row.n}{undefined}{seconds}"


def _fields(own: Dimensions | None) -> dict[str, object]:
    """Return the dimensions of a method as fields of its score, none if the protocol has none."""
    return {} if own is None else {"dimensions": {name: asdict(value) for name, value in own.values.items()}, "threshold": own.threshold}


def _echo_dimensions(methods: Mapping[MethodSpec, Dimensions]) -> None:
    """Print the dimensions of each method as a table, and what they are."""
    typer.echo(f"  {'dimensions':44}" + "".join(f" {name:>5}" for name in (*NAMES, "at t")))
    for method, own in methods.items():
        typer.echo(f"  {'':6}  {method!s:36}" + "".join(f" {number(value, 2):>5}" for value in (*own.means.values(), own.threshold)))
    typer.echo(
        f"  {LEGEND}; t: the threshold of the method with the best completeness. Each is a mean over the images where it is defined. "
        "The values are of this data set, the paper's of its own."
    )


def _echo_notes(notes: Sequence[str], refused: Sequence[Refusal]) -> None:
    """Print notes and refusals to standard error. Methods that are refused for the same reason share a line."""
    refusals = (f"{protocol} {', '.join(methods)}: refused: {why}" for (protocol, why), methods in by_reason(refused).items())
    for note in [*notes, *refusals]:
        typer.echo(f"note: {note}", err=True)
