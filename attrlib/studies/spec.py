"""What a study is about: its name and parameters, models, data and methods, as a frozen spec with its command line, link and Python."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from attrlib.errors import AttrlibError, unknown
from attrlib.methods import resolve
from attrlib.models import parse_model
from attrlib.registry import Value
from attrlib.specs import MethodSpec, ModelSpec, parse_methods, whole


@dataclass(frozen=True)
class StudySpec:
    """A study on models and data. Without `models` its own; without `methods` its own, at settings that keep it cheap.

    `params` are the study's, as text or in type; `seed` chooses the items and draws whatever is random.
    """

    study: str
    params: tuple[tuple[str, Value], ...] = ()
    models: tuple[ModelSpec, ...] = ()
    data: str = "birds"
    methods: tuple[MethodSpec, ...] = ()
    seed: int = 0
    classes: str = "auto"
    deletion_tuned: bool = False

    def __str__(self) -> str:
        pairs = "".join(f":{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in self.params)
        return self.study + pairs

    def cli(self) -> str:
        """The command line that computes the same."""
        words = ["python", "-m", "attrlib", "study", str(self)]
        words += ["--models", ",".join(m.text for m in self.models)] if self.models else []
        words += ["--data", self.data] if self.data != "birds" else []
        words += ["--methods", ",".join(map(str, self.methods))] if self.methods else []
        words += ["--seed", str(self.seed)] if self.seed else []
        words += ["--classes", self.classes] if self.classes != "auto" else []
        words += ["--deletion-tuned"] if self.deletion_tuned else []
        return shlex.join(words)

    def link(self) -> str:
        """The query string of the page that shows it."""
        fields: dict[str, Any] = {"study": str(self), "data": self.data, "seed": self.seed}
        fields |= {"models": ",".join(m.text for m in self.models)} if self.models else {}
        fields |= {"methods": ",".join(map(str, self.methods))} if self.methods else {}
        fields |= {"classes": self.classes} if self.classes != "auto" else {}
        fields |= {"tuned": "true"} if self.deletion_tuned else {}
        return "?" + urlencode(fields, safe="@:,=/")

    def snippet(self) -> str:
        """Python that computes the same."""
        given: dict[str, object] = {"models": [m.text for m in self.models], "data": self.data}
        given |= {"methods": [str(m) for m in self.methods], "seed": self.seed, "classes": self.classes}
        given |= {"deletion_tuned": self.deletion_tuned}
        plain = {"models": [], "data": "birds", "methods": [], "seed": 0, "classes": "auto", "deletion_tuned": False}
        options = "".join(f", {name}={value!r}" for name, value in given.items() if value != plain[name])
        lines = ["from attrlib.studies import study", "", f"result = study({str(self)!r}{options})", "print(result.finding)"]
        return "\n".join([*lines, "for row in result.rows:", "    print(row)"])


def parse_models(text: str) -> tuple[ModelSpec, ...]:
    """A comma-separated list of models, each once, in order."""
    return tuple(dict.fromkeys(parse_model(part) for part in text.split(",") if part.strip()))


def read_study_link(
    fields: Mapping[str, str], default: StudySpec, parse: Callable[[str], tuple[str, tuple[tuple[str, Value], ...]]]
) -> tuple[StudySpec, list[str]]:
    """The inverse of `StudySpec.link`, forgiving: what makes no sense keeps its default and is named in the list of problems.

    `parse` reads the study with its parameters.
    """
    problems: list[str] = []

    def read(name: str, how: Callable[[str], Any], otherwise: Any) -> Any:
        try:
            return how(fields[name]) if fields.get(name) else otherwise
        except AttrlibError as error:
            problems.append(str(error))
            return otherwise

    known: Sequence[str] = ("study", "models", "data", "methods", "seed", "classes", "tuned")
    problems += [unknown("field of the link", name, known) for name in sorted(set(fields) - set(known))]
    name, params = read("study", parse, (default.study, default.params))
    return StudySpec(
        name,
        params,
        read("models", parse_models, default.models),
        fields.get("data") or default.data,
        read("methods", _known_methods, default.methods),
        read("seed", lambda text: whole(text, "seed"), default.seed),
        fields.get("classes") or default.classes,
        fields.get("tuned") == "true",
    ), problems


def _known_methods(text: str) -> tuple[MethodSpec, ...]:
    methods = parse_methods(text)
    for method in methods:
        resolve(method)
    return methods
