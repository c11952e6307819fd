"""Which protocols the page Scores says to trust."""

from pathlib import Path

import pytest
from support.pages import Checkpoints, buttons, open_page, press, until, words
from support.runs import classifier, pictures

from attrlib.studies.trust import Evidence, Kind

pytestmark = pytest.mark.usefixtures("own_cache")
KIND = Kind(transformer=False, tuned=False)


@pytest.mark.parametrize("known", [True, False], ids=["known", "not known"])
def test_the_page_says_which_protocols_to_trust_where_that_is_known(
    known: bool, tmp_path: Path, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints({"tiny": classifier()})
    evidence = (Evidence(KIND, "sds:grid=2", 0.8, 0.7, 0.9, True, {}), Evidence(KIND, "entropy", 0.1, 0.0, 0.2, False, {}))
    monkeypatch.setattr("pages.scores.results.shipped", lambda: evidence if known else ())
    data = pictures(tmp_path / "pictures", count=1)
    at = open_page("scores", model="efficientnet_lite0@tiny", data=data, protocols="sds:grid=2,entropy", methods="IxG", limit=5)
    at = press(until(at, lambda at: "of memory" in words(at)), "Start")
    at = until(at, lambda at: "Run again" in buttons(at) and "results computed" in words(at))
    found = [each.value for each in at.info if "maps of known quality best" in each.value]
    assert len(found) == known
    assert all("not on this data set" in each for each in found)
    assert not at.exception
