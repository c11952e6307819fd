"""Opening of pictures by name: sample photos, drawn birds, and files."""

import re

from attrlib.data.birds import Birds, TrojanedBirds
from attrlib.data.images import Photo, open_photo
from attrlib.data.samples import PREFIX, SAMPLES, open_sample
from attrlib.errors import ImageError

BIRDS_SHOWN = 12
NAMES: tuple[str, ...] = (*(f"{PREFIX}{name}" for name in SAMPLES), *(f"birds:test/{k}" for k in range(BIRDS_SHOWN)))
"""Names of pictures that are always available: the sample photos and a few birds. Any bird can be opened as `birds:SPLIT/INDEX` or `birds-trojaned:SPLIT/INDEX`."""
_BIRD = re.compile(r"((birds|birds-trojaned):(train|select|test))/(\d{1,6})")
_SETS: dict[str, type[Birds] | type[TrojanedBirds]] = {"birds": Birds, "birds-trojaned": TrojanedBirds}


def is_named(name: str) -> bool:
    """Return whether a text names a picture that needs no file."""
    return name.removeprefix(PREFIX) in SAMPLES if name.startswith(PREFIX) else _BIRD.fullmatch(name) is not None


def title(name: str) -> str:
    """Return the title of a named picture for lists: the name of the sample, or the index and class of the bird."""
    bird = _BIRD.fullmatch(name)
    if bird is None:
        return name.removeprefix(PREFIX)
    data, index = _SETS[bird[2]](bird[3]), int(bird[4])
    return f"bird {index}: {data.class_names[data.label(index)]}" if index < len(data) else name


def open_image(source: object, name: str = "") -> Photo:
    """Open a picture by name, or from anything that `open_photo` takes.

    Args:
        source: `sample:NAME`, `birds:SPLIT/INDEX`, `birds-trojaned:SPLIT/INDEX`, or a path, bytes, an open binary file, a PIL image or an array.
        name: What the result and error messages call the picture, unless `source` is a name.

    Raises:
        ImageError: If the picture does not exist or cannot be opened.
    """
    if isinstance(source, str) and source.startswith(PREFIX):
        return open_sample(source)
    bird = _BIRD.fullmatch(source) if isinstance(source, str) else None
    if bird is None:
        return open_photo(source, name)  # type: ignore[arg-type]
    data = _SETS[bird[2]](bird[3])
    if int(bird[4]) >= len(data):
        raise ImageError(f"{bird[1]} has no bird {bird[4]}; choose one from 0 to {len(data) - 1}")
    item = data[int(bird[4])]
    return Photo(item.image, bird[0], id=item.id)
