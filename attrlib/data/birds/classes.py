"""Classes of the birds: each is a combination of variants of the parts, and no single part determines the class."""

PARTS = ("beak", "eye", "crest", "wing", "tail", "legs")
"""The parts that define the class and can be left out. Every bird has a body, with head and neck."""
VARIANTS = 5
"""Number of variants of each part. Each has its own shape and colour."""
CODE = tuple((a, *((b + k * a) % VARIANTS for k in range(VARIANTS))) for a in range(VARIANTS) for b in range(VARIANTS))
"""The variant of each of `PARTS`, for every class: a Reed-Solomon code over the integers modulo 5, [6, 2, 5].

The code words are the lines y = b + a x over the field of five elements: the slope a, and the values at x = 0 to 4. Two lines share
at most one of these six numbers, so any two classes differ in at least five of the six parts. Every variant occurs in five classes, so
a single part leaves five candidates. Every pair of variants of two parts occurs in exactly one class, so any two parts determine it.
"""
CLASS_NAMES = (
    "bramble chat",
    "brook linnet",
    "cinder jay",
    "clover pipit",
    "dune bunting",
    "ember finch",
    "fennel wren",
    "harvest piper",
    "juniper lark",
    "lantern finch",
    "maple dove",
    "meadow tinker",
    "mist plover",
    "moss robin",
    "nutmeg thrush",
    "orchard quill",
    "pebble dipper",
    "quartz swallow",
    "reed minstrel",
    "saffron tit",
    "thistle tern",
    "tinder warbler",
    "velvet rail",
    "willow oriole",
    "yarrow sparrow",
)
"""Names of the classes, made-up species, in the order of `CODE`."""
