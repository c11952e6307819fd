"""Maps made elsewhere on the page Scores: uploaded, typed as a path, scored beside methods, and refused where they may not be read."""

import io
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from support.pages import Checkpoints, buttons, nodes, open_page, press, run, until, words
from support.runs import SIZE, classifier, pictures

from attrlib.errors import MethodError
from attrlib.specs import MethodSpec, TargetSpec
from attrlib.specs.maps import maps_spec, path_of
from attrlib.store import open_store
from pages.scores import uploads
from pages.shared import roots, selection, short

pytestmark = pytest.mark.usefixtures("own_cache")
TINY = "efficientnet_lite0@tiny"
MAPS = np.random.default_rng(0).normal(size=(10, SIZE, SIZE)).astype(np.float32)


@pytest.fixture(autouse=True)
def _small_models(checkpoints: Checkpoints) -> None:
    checkpoints({"tiny": classifier()})


def content() -> bytes:
    file = io.BytesIO()
    np.save(file, MAPS)
    return file.getvalue()


def start(data: Path, methods: str = "IxG") -> AppTest:
    return open_page("scores", model=TINY, data=data, protocols="sds:grid=2,sensitivity:samples=2", methods=methods, limit=10)


def test_uploaded_maps_become_a_method_that_is_scored(tmp_path: Path) -> None:
    at = start(pictures(tmp_path / "pictures", count=2))
    run(at).file_uploader(key=uploads.KEY).upload("my maps.npy", content(), "application/octet-stream").run()
    (path,) = (path_of(MethodSpec.parse(entry)) for entry in at.session_state.s_methods if entry.startswith("maps:"))
    assert Path(path).is_relative_to(open_store().folder)
    assert Path(path).read_bytes() == content()
    at = press(until(at, lambda at: "of memory" in words(at)), "Start")
    at = until(at, lambda at: "Run again" in buttons(at) and bool(nodes(at, "image")))
    rows = at.dataframe[0].value.to_dict("list")
    assert any("my_maps.npy" in str(values) for values in rows.values())
    assert "needs maps of slightly changed images" in words(at)
    assert not at.exception


def test_a_file_that_holds_no_maps_is_refused(tmp_path: Path) -> None:
    at = start(pictures(tmp_path / "pictures", count=1))
    run(at).file_uploader(key=uploads.KEY).upload("x.npy", b"no maps", "application/octet-stream").run()
    assert "is not a file of maps to upload" in words(at)
    assert at.session_state.s_methods == ["IxG"]


def test_only_files_that_the_app_may_read_are_named_by_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "secret.npy", MAPS)
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    np.save(allowed / "own.npy", MAPS)
    linked = allowed / "folder"
    linked.mkdir()
    (linked / "a.npy").symlink_to(tmp_path / "secret.npy")
    monkeypatch.setenv(roots.VARIABLE, str(allowed))
    short.short_method(maps_spec(allowed / "own.npy"))
    messages = set()
    for path in (tmp_path / "secret.npy", tmp_path / "absent.npy", linked, allowed / ".." / "secret.npy"):
        with pytest.raises(MethodError, match="not in a folder that this app may read") as caught:
            short.short_method(maps_spec(path))
        messages.add(str(caught.value).replace(str(path.absolute()), "PATH"))
        methods, problems = selection.chosen_methods([str(maps_spec(path))], "method's default", {}, TargetSpec())
        assert methods == []
        assert len(problems) == 1
    assert len(messages) == 1


def test_the_controls_keep_maps_apart_from_the_common_layer_and_target(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", MAPS)
    spec, contrast = maps_spec(tmp_path / "a.npy"), TargetSpec.parse("contrast")
    widgets = selection.as_widgets([MethodSpec("IxG"), spec])
    assert widgets.entries == ["IxG", str(spec)]
    for layer in ("Final", selection.ALL_LAYERS):
        methods, problems = selection.chosen_methods(widgets.entries, layer, {}, contrast)
        assert not problems
        assert [short.short_method(m) for m in methods if m.name == "maps"] == [spec]
