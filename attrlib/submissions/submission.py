"""A submission: what a run computed, the score of every item, and the digests and versions on which they depend."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from attrlib.errors import SpecError
from attrlib.protocols import create
from attrlib.specs import NUMERICS, MethodSpec, ModelSpec, ProtocolSpec, RunSpec, canonical, digest
from attrlib.specs.maps import are_maps
from attrlib.store import Record, Run

FORMAT = 1
"""Version of the file."""
LONGEST = 200
"""Most characters of what a submitter says of themselves."""


@dataclass(frozen=True)
class Scores:
    """The scores of a method under a protocol.

    Attributes:
        protocol: The protocol in text form.
        method: The method in text form.
        items: Key of each item, a digest of its content and its labels.
        values: Score of each item; None where it is undefined.
    """

    protocol: str
    method: str
    items: tuple[str, ...]
    values: tuple[float | None, ...]

    @property
    def counted(self) -> list[float]:
        """Return the values as they count in the mean: undefined ones as the protocol says, or NaN."""
        undefined = create(ProtocolSpec.parse(self.protocol)).undefined_value
        return [undefined if value is None else value for value in self.values]


@dataclass(frozen=True)
class Submission:
    """The content of a submission file.

    Attributes:
        run: What was computed.
        weights: Digest of the model's weights.
        scores: The scores of each method under each protocol.
        version: Version of attrlib.
        created: Time when the run started, UTC in ISO 8601.
        name: Who submits it.
        link: Where more can be read of it; empty, or a URL that begins with https://.
        refused: Why methods have no score under a protocol, by `PROTOCOL|METHOD`.
        numerics: Version of the arithmetic.
    """

    run: RunSpec
    weights: str
    scores: tuple[Scores, ...]
    version: str
    created: str
    name: str = ""
    link: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)
    numerics: int = NUMERICS

    def content(self) -> dict[str, Any]:
        """Return the content as JSON values, without its digest."""
        scores = [asdict(each) | {"items": list(each.items), "values": list(each.values)} for each in self.scores]
        fields = {"format": FORMAT, "attrlib": self.version, "numerics": self.numerics, "created": self.created, "name": self.name}
        return fields | {
            "link": self.link,
            "run": json.loads(canonical(self.run)),
            "weights": self.weights,
            "refused": dict(self.refused),
            "scores": scores,
        }

    @property
    def digest(self) -> str:
        """Return the digest of the content, by which an edited file is noticed."""
        return digest(self.content())

    def to_json(self) -> bytes:
        """Return the bytes of the file."""
        return json.dumps(self.content() | {"digest": self.digest}, allow_nan=False, separators=(",", ":")).encode()


def made_of(
    run: Run, records: Callable[[str, Sequence[str]], Mapping[str, Record]], version: str, name: str = "", link: str = ""
) -> Submission:
    """Return the submission of a stored run.

    Args:
        run: The run, which must be complete.
        records: Returns the stored records of a key and items, as `Store.records`.
        version: Version of attrlib.
        name: Who submits it.
        link: Where more can be read of it.

    Raises:
        SpecError: If the run has no scores or is not complete, the name is too long, or the link is no https:// URL.
    """
    check_words(name, link)
    if run.spec.get("kind") != "score" or not run.parts:
        raise SpecError("the run has no scores to submit; choose a run of attrlib score")
    spec = RunSpec.from_json(json.loads(canonical(run.spec["spec"])))
    if any(are_maps(method) for method in spec.methods):
        raise SpecError("the run scores maps made elsewhere, which lie in a file that others do not have; submit a run of methods")
    scores = []
    for label, part in run.parts.items():
        protocol, _, method = label.partition("|")
        found = records(part["key"], part["items"])
        missing = len(set(part["items"]) - found.keys())
        if missing or run.state != "done":
            raise SpecError(
                f"the run is not complete ({run.state}; {missing} scores of {method} by {protocol} are missing); finish it with attrlib score --resume"
            )
        values = [found[item].value for item in part["items"]]
        scores.append(Scores(protocol, method, tuple(part["items"]), tuple(v if math.isfinite(v) else None for v in values)))
    refused = {str(label): str(reason) for label, reason in run.spec.get("refused", {}).items()}
    return Submission(_without_folders(spec), str(run.spec["model_digest"]), tuple(scores), version, run.created, name, link, refused)


def _without_folders(spec: RunSpec) -> RunSpec:
    """Return a run whose data and checkpoints are named without the folders in which they lie on the submitter's machine."""
    return replace(spec, data=_name(spec.data), model=_own(spec.model), filter_models=tuple(map(_own, spec.filter_models)))


def _own(model: ModelSpec) -> ModelSpec:
    return model if model.checkpoint is None else replace(model, checkpoint=_name(model.checkpoint))


def _name(text: str) -> str:
    """Return the last part of a path; other names, such as `torchvision:NAME/SPLIT`, stay as they are."""
    is_path = text.startswith(("/", "~", ".")) or (":" not in text and ("/" in text or "\\" in text))
    return text.replace("\\", "/").rstrip("/").rpartition("/")[2] if is_path else text


def check_words(name: str, link: str) -> None:
    """Raise `SpecError` unless a name is short and a link is empty or an https:// URL."""
    if len(name) > LONGEST or len(link) > LONGEST:
        raise SpecError(f"the name or the link is longer than {LONGEST} characters; shorten it")
    if link and not link.startswith("https://"):
        raise SpecError(f"the link {link[:60]!r} does not begin with https://; give the address of a page")


def parsed(protocol: str, method: str) -> tuple[ProtocolSpec, MethodSpec]:
    """Return a protocol and a method from their text forms. Raises `AttrlibError` if one is not valid."""
    return ProtocolSpec.parse(protocol), MethodSpec.parse(method)
