"""The doctor: valid, refused and failed methods, costs, and the detection and absence of side effects."""

import attrlib

# isort: split
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from support.nets import CLASSES, NoMaps, Plain, Transformer, made, pictures
from torch import Tensor, nn
from typer.testing import CliRunner

from attrlib.cli import app
from attrlib.diagnosis import FAILED, REFUSED, VALID, Diagnosis, doctor
from attrlib.engine.peak import peak_memory
from attrlib.errors import AttrlibError, Cancelled, MethodError, SpecError
from attrlib.methods import METHODS, AttributionContext, Method, Passes, create
from attrlib.models import Layer
from attrlib.models.modules.state import State
from attrlib.registry import Paper, param
from attrlib.specs import MethodSpec

SIZE = 16
MINE = Paper("me", "mine", "https://example.org")
CPU = torch.device("cpu")


def model(net: type[nn.Module] = Plain, *args: object) -> attrlib.Classifier:
    return attrlib.wrap_model(made(net, *args), SIZE)


@pytest.fixture
def registered() -> Iterator[None]:
    """Unregister the methods of a test."""
    before = list(METHODS)
    yield
    for name in [name for name in METHODS if name not in before]:
        METHODS.forget(name)


class Mine(Method):
    """Mine: zero."""

    name, family, paper, fast = "Mine", "own", MINE, True

    def attribute(self, context: AttributionContext) -> Tensor:
        self.act(context)
        return context.reduce(context.inputs)

    def act(self, context: AttributionContext) -> None:
        pass

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=1)


# Validity


def refusal(classifier: attrlib.Classifier, method: str, layer: str) -> str:
    try:
        create(MethodSpec(method, layer)).check(classifier, classifier.layer(layer))
    except MethodError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("net", [(Plain,), (Transformer, 1, 3)], ids=["convolutions", "transformer"])
def test_every_method_is_valid_or_refused_according_to_its_check(net: tuple) -> None:
    classifier = model(*net)
    found = doctor(classifier, images=3, limit=0.5)
    assert found.methods == tuple(METHODS)
    assert [(f.method, f.layer) for f in found.findings] == [(m, n) for m in METHODS for n in ("Input", "Middle", "Final")]
    for f in found.findings:
        assert f.state in (VALID, REFUSED), f
        expected = refusal(classifier, f.method, f.layer)
        # The activations are only known once the model runs.
        assert f.reason == expected or (not expected and METHODS[f.method].needs and "is defined for ReLU networks" in f.reason)
        assert (f.state == VALID) == (f.seconds is not None) == (f.reason == "")
    assert found.clean
    transformers = {f.state for f in found.findings if METHODS[f.method].family == "transformer" and f.layer == "Input"}
    assert transformers == ({REFUSED} if net[0] is Plain else {VALID})


def test_missing_layers_are_refused_with_the_reason() -> None:
    found = doctor(model(NoMaps), ["Gradient"])
    assert [f.state for f in found.findings] == [VALID, REFUSED, REFUSED]
    assert found.layers == {"Input": (3, SIZE, SIZE)}
    assert found.finding("Gradient", "Final").reason.startswith(
        "wrapped:NoMaps has no layer Final: none of its modules runs exactly once and yields a map"
    )
    assert found.reasons("Gradient")[0].startswith("Middle: wrapped:NoMaps has no layer Middle")


def test_layers_may_be_module_paths_and_reasons_are_listed_once_with_all_layers() -> None:
    found = doctor(model(), ["Rollout", "Rollout"], layers=["features.2", "Final"])
    assert [f.layer for f in found.findings] == ["features.2", "Final"]
    assert found.reasons("Rollout") == [
        "features.2, Final: wrapped:Plain has no self-attention; use a gradient, CAM or perturbation method instead"
    ]


class Moody(nn.Module):
    """Fails in calls with a gradient."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.net, self.error = made(Plain), error

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            raise self.error
        return self.net(x)


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (ValueError("no gradients today\nat all"), FAILED, "ValueError: no gradients today"),
        (MemoryError(), FAILED, "there is not enough memory for a single image; use a smaller model or layer, or close other programs"),
        (
            torch.OutOfMemoryError("CUDA"),
            FAILED,
            "there is not enough memory for a single image; use a smaller model or layer, or close other programs",
        ),
    ],
)
def test_a_method_that_fails_is_reported_and_the_others_continue(error: Exception, state: str, reason: str) -> None:
    classifier = model(Moody, error)
    _ = classifier.layers
    found = doctor(classifier, ["Random", "Gradient", "Sobel"], layers=["Input"])
    assert [(f.state, f.reason) for f in found.findings] == [(VALID, ""), (state, reason), (VALID, "")]


def test_an_all_zero_map_is_noted() -> None:
    module = made(Plain)
    nn.init.zeros_(module.fc.weight)
    found = doctor(attrlib.wrap_model(module, SIZE), ["Gradient"], layers=["Input"])
    assert found.findings[0].state == VALID
    assert found.findings[0].note.startswith("All zero")


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        (dict(images=0), SpecError, "images=0"),
        (dict(limit=0.0), SpecError, "limit=0"),
        (dict(methods=[]), SpecError, "nothing to probe"),
        (dict(layers=[]), SpecError, "nothing to probe"),
        (dict(methods=["Gradiant"]), MethodError, "Did you mean Gradient"),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict, error: type[AttrlibError], reason: str) -> None:
    with pytest.raises(error, match=reason):
        doctor(model(), **arguments)


# Side effects

CHANGES = {
    "hook": (lambda t: t.classifier.module.fc.register_forward_hook(lambda *_: None), "hooks of fc"),
    "weight": (lambda t: t.classifier.module.fc.weight.data.zero_(), "the values of fc.weight"),
    "mode": (lambda t: t.classifier.module.pool.train(), "the mode of pool"),
    "numbers": (lambda t: torch.rand(1), "the state of torch's random number generator"),
    "switch": (lambda t: torch.use_deterministic_algorithms(True), "torch's global settings"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.usefixtures("registered")
def test_a_change_is_reported_and_restored(change: str) -> None:
    act, what = CHANGES[change]

    @METHODS.register
    @dataclass(frozen=True)
    class Leaves(Mine):
        """Leaves a trace."""

        name = "Leaves"

        def act(self, context: AttributionContext) -> None:
            act(context)

    classifier = model()
    before, images = State(classifier.module), pictures(1, SIZE)
    logits = classifier(images)
    try:
        found = doctor(classifier, ["Gradient", "Leaves", "IxG"], layers=["Input"])
    finally:
        torch.use_deterministic_algorithms(False)
    assert [f.changed for f in found.findings] == [(), (what,), ()]
    assert not found.clean
    assert found.reasons("Leaves") == [f"Input: left changed: {what}"]
    assert before.changes() == []
    assert torch.equal(classifier(images), logits)


@pytest.mark.parametrize("training", [True, False])
def test_the_doctor_changes_nothing_and_can_be_stopped(training: bool) -> None:
    classifier = model()
    classifier.module.train(training)
    before, rng = State(classifier.module), torch.get_rng_state()
    seen: list[tuple[int, int, str]] = []
    doctor(classifier, ["Gradient", "RISE"], layers=["Input"], limit=0.2, on_progress=lambda *told: seen.append(told))
    assert seen[0] == (0, 2, "Gradient@Input")
    assert seen[-1] == (2, 2, "")
    assert len([s for s in seen if s == (1, 2, "RISE@Input")]) > 1

    def stop(done: int, _total: int, _what: str) -> None:
        if done:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        doctor(classifier, ["Gradient", "RISE"], layers=["Input"], on_progress=stop)
    assert before.changes() == []
    assert torch.equal(torch.get_rng_state(), rng)


# Costs


@pytest.mark.usefixtures("registered")
def test_seconds_follow_from_the_number_of_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def look() -> float:
        nonlocal now
        now += 1e-6
        return now

    for module in ("attrlib.diagnosis.examine", "attrlib.methods.together"):
        monkeypatch.setattr(sys.modules[module], "time", SimpleNamespace(perf_counter=look))

    @METHODS.register
    @dataclass(frozen=True)
    class Sleeps(Mine):
        """Takes two milliseconds in every pass."""

        name = "Sleeps"
        samples: int = param(320, "Passes", low=1, high=1000)

        def act(self, context: AttributionContext) -> None:
            nonlocal now
            for k in range(self.samples):
                context.on_progress(k, self.samples)
                now += 0.002

        def passes(self, layer: Layer) -> Passes:
            return Passes(forward=self.samples)

    short = doctor(model(), ["Sleeps"], layers=["Input"], images=10).findings[0]
    assert short.seconds == pytest.approx(320 * 0.002, rel=0.01)
    assert short.seconds_all == pytest.approx(10 * short.seconds)
    assert short.note == ""
    stopped = doctor(model(), ["Sleeps"], layers=["Input"], images=10, limit=0.01).findings[0]
    assert stopped.seconds == pytest.approx(320 * 0.002, rel=0.01)
    assert stopped.note.startswith("stopped after 0.01 s")


def test_memory_grows_with_the_images_up_to_a_chunk() -> None:
    one, five, many = (doctor(model(), ["Gradient"], layers=["Input"], images=n).findings[0] for n in (1, 5, 1000))
    assert one.peak_bytes == one.peak_bytes_all
    assert five.peak_bytes_all == pytest.approx(5 * five.peak_bytes, abs=1)
    assert many.peak_bytes_all == pytest.approx(16 * many.peak_bytes, abs=1)
    # One map of 16 x 16 x 3 floats is 3 KB, one activation of the first convolution 4 KB.
    assert 8_000 < one.peak_bytes < 40_000
    classifier = model()
    first, again = (doctor(classifier, ["Gradient"], layers=["Middle"]).findings[0] for _ in range(2))
    assert first.peak_bytes == again.peak_bytes


def test_the_peak_is_the_most_that_lives_at_once() -> None:
    with peak_memory(CPU) as chained:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = (b * 2).view(10, 100)
        del b
        _ = c + 1
    assert chained.nbytes == 8000
    with peak_memory(CPU) as repeated:
        for _ in range(20):
            torch.full((1000,), 2.0).mul_(2)
    assert repeated.nbytes == 4000
    x = torch.randn(1000, requires_grad=True)
    with peak_memory(CPU) as differentiated:
        torch.autograd.grad(x.exp().exp().sum(), x)
    # Two exponentials are kept for the backward pass, which makes a gradient of each.
    assert 8000 < differentiated.nbytes <= 16_100


# The command line


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["doctor", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_json_on_the_command_line() -> None:
    code, out, _ = run("--methods", "Random,Rollout", "--images", "7", "--device", "cpu", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["model"], found["images"], found["clean"]) == ("efficientnet_lite0", 7, True)
    assert [(f["method"], f["layer"], f["state"]) for f in found["findings"]] == [
        (m, n, s) for m, s in (("Random", VALID), ("Rollout", REFUSED)) for n in ("Input", "Middle", "Final")
    ]
    assert found["layers"]["Final"] == [1280, 7, 7]


def test_a_table_on_the_command_line() -> None:
    code, out, _ = run("--methods", "Random,Rollout", "--layers", "Input,Final", "--images", "7", "--device", "cpu")
    assert code == 0
    rows = [line for line in out.splitlines() if "│ R" in line]
    assert [row.split("│")[1].strip() for row in rows] == ["Random", "Rollout"]
    assert rows[1].split("│")[2].strip() == "refused"
    assert "has no self-attention" in rows[1]
    assert "224×224" in out
    assert "Every method left the model unchanged: hooks, modes, gradients and weights." in out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--methods", "nothing"), "unknown method"),
        (("--images", "0"), "images=0"),
        (("--images", "many"), "images='many' is not valid"),
        (("--methods", ","), "nothing to probe"),
        (("--model", "timm:nothing"), "unknown timm model"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(arguments: tuple[str, ...], reason: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert reason in err


@pytest.mark.usefixtures("registered")
def test_a_change_gives_exit_code_1() -> None:
    @METHODS.register
    @dataclass(frozen=True)
    class Draws(Mine):
        """Draws from the global random generator."""

        name = "Draws"

        def act(self, context: AttributionContext) -> None:
            torch.rand(1)

    state = torch.get_rng_state()
    code, out, _ = run("--methods", "Draws", "--layers", "Input", "--device", "cpu")
    torch.set_rng_state(state)
    assert code == 1
    assert "left changed: the state of torch's random number generator" in out


def test_the_result_is_frozen_and_public() -> None:
    found: Diagnosis = attrlib.doctor(model(), ["Random"], layers=["Input"])
    assert isinstance(found, attrlib.Diagnosis)
    assert json.loads(json.dumps(found.json()))["findings"][0]["method"] == "Random"
    assert len(made(Plain)(pictures(1, SIZE))[0]) == CLASSES
    with pytest.raises(AttributeError):
        found.images = 3  # type: ignore[misc]
