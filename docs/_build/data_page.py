"""The page of data sets."""

import attrlib
from attrlib.data.birds.classes import PARTS
from attrlib.data.folders import SUFFIXES
from attrlib.data.samples import SAMPLES
from attrlib.data.splits import SPLITS
from docs._build.markup import table, text
from docs._build.registered import protocols

HEAD = """---
description: The data sets that attrlib loads.
---

# Data

`attrlib.load_dataset(SOURCE)` and `--data SOURCE` take the name of a data set, a folder, or a CSV file; in Python also pictures in memory.
`attrlib datasets` lists the named ones, and `attrlib datasets SOURCE` describes one: its images and classes, and what was left out.
A data set opens one image at a time; images that cannot be read are named and left out. An image is known by a digest of its content, so moving
or renaming files changes no result.

{named}

## A folder

| Layout | Labels |
|---|---|
| `FOLDER/CLASS/*.jpg` | the class folders, named by WNID, class name or index |
| `FOLDER/*.jpg` | none: use the model's prediction as target |
| `FOLDER/images/...` and `FOLDER/masks/...` | as above, with a mask for each image: an 8-bit greyscale PNG of the same size, 0 for background |
| `FOLDER/SPLIT/CLASS/*.jpg` | of one split, {splits}: the first of these that is there, and to train on the last two; `FOLDER/train` is the path of another |

Images are files that end in {suffixes}. Files that end otherwise are counted by ending in the notes of a run, and classes without any other
files are named there.

Folders of classes are matched to the model's class names (`--classes`): by WNID, by name, or by number. If a model has no class names, or has two
classes whose names are others, the order of the folders' names counts. A run that matches by number or by order says so, and what the other way
would give: folders `0`, `1`, `10`, `2` are in the order of torchvision's `ImageFolder`, which gives `10` the index 2. A text file beside the
checkpoint (`mine.txt` for `mine.pth`) gives the names, one on each line.

## A CSV file

With the columns `file` and `label`. Paths are relative to the CSV file. A picture may have several labels, separated by `;` or `|`. Without a column
`label`, the other columns are the classes if they hold nothing but 0 and 1.

## Several labels

Each label of an image is an item of its own: the image is explained for each class that it shows, and a limit counts items. With the prediction as
target an image is one item. In a grid, no image shows the class of another cell.

## Pictures in memory

| Source | Labels |
|---|---|
| an array or a tensor (N,H,W), (N,H,W,C) or (N,C,H,W), uint8 or floats from 0 to 1 | `labels=`: indices, names, lists of them, or (N,C) of 0 and 1 |
| a list of pictures, each a path, a PIL image or an array | `labels=`, or pairs (picture, label) |
| a torch `Dataset` | those of its pairs (picture, label); an array of 0 and 1 for several |
| an `ImageFolder` | its own; its files are opened, and its transform is not used |

`class_names=` names the classes in the order of their indices. attrlib preprocesses as the model needs, so a data set must give pictures as they
are: without normalisation, and without random augmentation, which is detected. Scores are stored under a digest of the pixels and are found again;
but data in memory have no name, so no link or command line loads them.

## torchvision

`torchvision:NAME` or `torchvision:NAME/SPLIT`, such as `torchvision:OxfordIIITPet/test`. Downloaded when first used, into the cache folder.

## Birds

`birds` is drawn by the library, so nothing is stored or downloaded: the picture follows from its index. It is a world in which claims about maps can
be tested. There are 25 classes of birds of parts before cluttered backgrounds. Each part ({parts}) has five variants, and no single part tells the
class. Every picture has a mask of every part and of every object of its background, and can be rendered again without any of them. `birds:train` is for training, `birds:select` for choices
such as the best epoch, and `birds` or `birds:test` for scores. `birds:test/7` names one picture.

`birds-trojaned` has the same scenes with a trigger, a small pattern at a random place (as in [BackX](https://arxiv.org/abs/2405.02344)). Models
trained on it, such as `birds_resnet18_trojaned`, give every picture with the trigger the same class, so its mask is the true attribution: `energy`,
`mass`, `pointing` and `rank` measure how much of a map lies on it. In the test split every picture has the trigger, and pictures of that class are left
out; in `birds-trojaned:train` and `birds-trojaned:select` every second picture has it.

## Single pictures

`attrlib.open_image` and the command line take a JPEG, PNG, WebP, BMP, TIFF, `.npy` or DICOM file, `sample:NAME` ({samples}), or one item of a data set as `birds:test/7`.

## What protocols need

{needs}
"""


def page() -> str:
    """Return the page."""
    rows = [
        (f"`{d.name}`", text(d.summary), number(d.count), number(d.classes), "yes" if d.masks else "no") for d in attrlib.list_datasets()
    ]
    offers = [
        ("images and labels", names(lambda needs: not {"masks", "parts"} & set(needs)), "every labelled data set"),
        ("masks of the object", names(lambda needs: "masks" in needs), "`birds`, `birds-trojaned`, folders with `masks`"),
        ("images without single parts", names(lambda needs: "parts" in needs and "scenes" not in needs), "`birds`"),
        ("scenes without parts and background objects", names(lambda needs: "scenes" in needs), "`birds`"),
    ]
    return HEAD.format(
        named=table(("Name", "Images", "Count", "Classes", "Masks"), rows),
        splits=", ".join(f"`{split}`" for split in SPLITS),
        suffixes=", ".join(f"`{suffix}`" for suffix in sorted(SUFFIXES)),
        parts=", ".join(PARTS),
        samples=", ".join(f"`sample:{name}`" for name in SAMPLES),
        needs=table(("Data offer", "Protocols", "Data sets"), offers),
    )


def number(count: int | None) -> str:
    """Return a count, if it is known before loading."""
    return "–" if count is None else f"{count:,}"


def names(fits) -> str:  # type: ignore[no-untyped-def]
    """Return links to the protocols whose needs fit."""
    return ", ".join(f"[`{p.name}`](protocols.md#{p.name})" for p in protocols() if fits(p.needs))
