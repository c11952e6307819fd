"""The run that a page proposes on the first visit."""

from dataclasses import replace

from attrlib.models import EMBEDDED, smallest
from attrlib.specs import MethodSpec, ModelSpec, ProtocolSpec, RunSpec


def on_photos(methods: tuple[MethodSpec, ...], limit: int) -> RunSpec:
    """Return a run on the photos with the embedded model, which needs no download; single images, as there are too few for grids."""
    return RunSpec(ModelSpec(EMBEDDED), "photos", (ProtocolSpec("sds", (("target", "prediction"),)),), methods, limit=limit)


def on_birds(photos: RunSpec, protocol: str, tuned: bool) -> RunSpec:
    """Return the run on the birds under a protocol if the project includes a model for them, else the run on the photos.

    Args:
        photos: The run on the photos.
        protocol: Name of the protocol.
        tuned: Whether the model must be deletion-tuned.
    """
    name = smallest("birds", tuned)
    return photos if name is None else replace(photos, model=ModelSpec(name), data="birds", protocols=(ProtocolSpec(protocol),))
