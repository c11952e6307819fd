"""Submissions: made of a run, refused where they were edited, and shown as a leaderboard whose numbers come from the items."""

import csv
import json
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
from support.runs import classifier, pictures
from typer.testing import CliRunner

import attrlib.cli
from attrlib.errors import DataError, SpecError
from attrlib.significance import rank_table
from attrlib.specs import digest
from attrlib.statistics import summary
from attrlib.store import Store
from attrlib.submissions import Submission, made_of, make_board, read_all, read_submission, write_site
from attrlib.submissions.submission import _name

METHODS = ("IxG", "Grad-CAM", "Random")
HOSTILE = '=1+1 <script>alert("x")</script>'


@pytest.fixture(scope="module")
def submissions(tmp_path_factory: pytest.TempPathFactory) -> list[Submission]:
    """Submissions of two models on the same pictures."""
    folder = tmp_path_factory.mktemp("runs")
    data, found = pictures(folder / "pictures", 3), []
    with closing(Store(folder=folder / "store")) as store:
        for seed in (0, 1):
            attrlib.compare(["sds:grid=2", "entropy"], classifier(seed), METHODS, data, limit=9, store=store)
            run = max(store.runs(), key=lambda each: each.updated)
            found.append(made_of(run, store.records, "1.0", HOSTILE if seed else "Ana", "https://example.org" if seed else ""))
    return found


def written(folder: Path, submissions: list[Submission]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, each in zip("ab", submissions, strict=False):
        (folder / f"{name}.json").write_bytes(each.to_json())
    return folder


def test_a_submission_survives_a_round_trip(submissions: list[Submission], tmp_path: Path) -> None:
    for each in submissions:
        file = tmp_path / "one.json"
        file.write_bytes(each.to_json())
        again = read_submission(file)
        assert again == each
        assert again.digest == each.digest
    assert {(s.protocol, s.method) for s in submissions[0].scores} == {
        (str(p), str(m)) for p in submissions[0].run.protocols for m in submissions[0].run.methods
    }
    assert {len(s.items) for s in submissions[0].scores} == {9}


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def edited(content: dict[str, Any]) -> dict[str, Any]:
        change(content)
        content["digest"] = digest({name: value for name, value in content.items() if name != "digest"})
        return content

    return edited


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c | {"name": "another"}, "it was edited"),
        (lambda c: c | {"more": 1}, "other fields"),
        (lambda c: c | {"format": 2}, "format 1"),
        (lambda c: c | {"scores": 3}, "format 1"),
        (_edit(lambda c: c.update(numerics=1)), "another version of the arithmetic"),
        (_edit(lambda c: c["scores"][0]["values"].__setitem__(0, 7.0)), "outside of -1 to 1"),
        (_edit(lambda c: c["scores"][0]["values"].pop()), "do not belong together"),
        (_edit(lambda c: [c["scores"][0][name].pop() for name in ("items", "values")]), "are missing"),
        (_edit(lambda c: c["scores"][0]["items"].__setitem__(0, c["scores"][0]["items"][1])), "counts an item twice"),
        (_edit(lambda c: c["scores"][0]["values"].__setitem__(0, "x")), "no numbers"),
        (_edit(lambda c: c["scores"][0].update(method="LRP")), "does not score LRP"),
        (_edit(lambda c: c["scores"][0].update(protocol="nonsense")), "nonsense"),
        (_edit(lambda c: c.update(scores=[])), "no scores"),
        (_edit(lambda c: c.update(link="javascript:alert(1)")), "https://"),
        (_edit(lambda c: c.update(name="x" * 500)), "200 characters"),
        (_edit(lambda c: c["run"].update(limit=2)), "more than the 2 items"),
        (_edit(lambda c: c["run"].update(model=3)), "model"),
        (_edit(lambda c: c["scores"].pop()), "scores are missing"),
        (_edit(lambda c: c["scores"].append(c["scores"][0])), "two scores of one method"),
        (_edit(lambda c: c["scores"][0]["values"].__setitem__(0, 10**400)), "no numbers"),
        (_edit(lambda c: c["run"].update(data="memory:x\ntouch y #")), "control characters"),
        (_edit(lambda c: c.update(name="a\u202eb")), "control characters"),
        (_edit(lambda c: c.update(created="1" * 5000)), "too long"),
    ],
)
def test_a_file_that_does_not_verify_is_refused_with_the_reason(
    change: Callable[[dict[str, Any]], dict[str, Any]], reason: str, submissions: list[Submission], tmp_path: Path
) -> None:
    file = tmp_path / "one.json"
    file.write_text(json.dumps(change(json.loads(submissions[0].to_json()))))
    with pytest.raises(DataError, match=reason):
        read_submission(file)


@pytest.mark.parametrize("text", ["", "nonsense", "[" * 100_000, '{"format": NaN}', "[1, 2]"])
def test_a_file_that_is_no_submission_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    file.write_text(text)
    with pytest.raises(DataError):
        read_submission(file)


def test_a_large_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attrlib.submissions.reading.LARGEST", 10)
    (tmp_path / "one.json").write_text('{"format": 1}')
    with pytest.raises(DataError, match="larger than"):
        read_submission(tmp_path / "one.json")


def test_repeated_scores_are_refused_and_of_two_that_differ_both(submissions: list[Submission], tmp_path: Path) -> None:
    folder = written(tmp_path / "all", submissions)
    (folder / "c.json").write_bytes(replace(submissions[0], name="again").to_json())
    changed = replace(submissions[1].scores[0], values=tuple(0.0 for _ in submissions[1].scores[0].values))
    (folder / "d.json").write_bytes(replace(submissions[1], scores=(changed, *submissions[1].scores[1:])).to_json())
    found, refused = read_all(folder)
    assert list(found) == ["a.json"]
    assert [(each.file, each.reason.split(":")[0]) for each in refused] == [
        ("b.json", "it contradicts d.json"),
        ("c.json", "it repeats the scores of a.json"),
        ("d.json", "it contradicts b.json"),
    ]


def test_the_numbers_of_the_board_come_from_the_items(submissions: list[Submission]) -> None:
    board = make_board(dict(zip("ab", submissions, strict=True)))
    assert len(board) == 12
    for protocol in {entry.protocol for entry in board}:
        rows = [entry for entry in board if entry.protocol == protocol]
        scores = {(file, s.method): s for file, own in zip("ab", submissions, strict=True) for s in own.scores if s.protocol == protocol}
        items = sorted(next(iter(scores.values())).items)
        values = {
            str(key): np.array([dict(zip(s.items, s.values, strict=True))[item] for item in items], dtype=float)
            for key, s in scores.items()
        }
        expected = {place.name: place for place in rank_table(values, higher_is_better=protocol.startswith("sds"))}
        for entry in rows:
            place = expected[str((entry.file, entry.method))]
            assert (entry.place.first, entry.place.last) == (place.first, place.last)
            assert entry.place.summary == summary(values[place.name])
        means = [entry.better * entry.place.summary.mean for entry in rows]
        assert means == sorted(means, reverse=True)
    assert all(f"--methods {entry.method}" in entry.command for entry in board if entry.method == "IxG")


def test_no_folder_of_the_submitter_is_told(submissions: list[Submission]) -> None:
    assert {each.run.data for each in submissions} == {"pictures"}
    assert b"pytest" not in submissions[0].to_json()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("/home/me/birds", "birds"),
        ("~/x/y.pth", "y.pth"),
        ("../z", "z"),
        ("birds", "birds"),
        ("torchvision:Pets/test", "torchvision:Pets/test"),
        ("a/b", "b"),
    ],
)
def test_a_path_is_told_by_its_last_part(text: str, name: str) -> None:
    assert _name(text) == name


def test_an_incomplete_run_is_not_submitted(tmp_path: Path) -> None:
    with closing(Store(folder=tmp_path / "store")) as store:
        attrlib.score("sds:grid=2", classifier(), "IxG", pictures(tmp_path / "pictures", 1), limit=4, store=store)
        (run,) = store.runs()
        with pytest.raises(SpecError, match="not complete"):
            made_of(run, lambda _key, _items: {}, "1.0")
        with pytest.raises(SpecError, match="not complete"):
            made_of(replace(run, state="cancelled"), store.records, "1.0")


def test_the_page_escapes_what_others_wrote(submissions: list[Submission], tmp_path: Path) -> None:
    write_site(make_board(dict(zip("ab", submissions, strict=True))), [], tmp_path / "site")
    page = (tmp_path / "site" / "index.html").read_text()
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert" in page
    assert "http://" not in page
    rows = list(csv.DictReader((tmp_path / "site" / "leaderboard.csv").open()))
    assert {row["From"] for row in rows} == {"Ana", "'" + HOSTILE}
    assert float(rows[0]["Mean"]) == make_board(dict(zip("ab", submissions, strict=True)))[0].place.summary.mean
    assert {read_submission(file).digest for file in (tmp_path / "site" / "submissions").iterdir()} == {each.digest for each in submissions}


def test_the_command_line_writes_and_renders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, submissions: list[Submission]) -> None:
    def invoke(*arguments: object):  # type: ignore[no-untyped-def]
        return CliRunner().invoke(attrlib.cli.app, [str(each) for each in arguments])

    with closing(Store(folder=tmp_path / "store")) as store:
        monkeypatch.setattr("attrlib.cli.submit.open_store", lambda: store)
        assert "there is no run to submit" in invoke("submit", "--out", tmp_path / "x.json").stderr
        attrlib.score("sds:grid=2", classifier(), "IxG", pictures(tmp_path / "pictures", 1), limit=4, store=store)
        folder = written(tmp_path / "all", submissions[1:])
        assert invoke("submit", "--out", folder / "mine.json", "--name", "Me").exit_code == 0
        assert read_submission(folder / "mine.json").name == "Me"
        assert "no run key starts with" in invoke("submit", "zzz").stderr
    (folder / "broken.json").write_text("{}")
    done = invoke("leaderboard", folder, "--out", tmp_path / "site", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["rows"] == 7
    assert "refused: broken.json" in done.stderr
    (tmp_path / "none").mkdir()
    assert invoke("leaderboard", tmp_path / "none").exit_code == 2
    assert invoke("leaderboard", tmp_path / "nowhere").exit_code == 2


def test_undefined_scores_count_as_the_protocol_says(submissions: list[Submission]) -> None:
    one = replace(submissions[0].scores[0], values=(None, *submissions[0].scores[0].values[1:]))
    assert math.isnan(one.counted[0])
    zero = replace(one, protocol="sds:grid=2:undefined=zero")
    assert zero.counted[0] == 0
