"""Which classes there are: every class is a combination of variants of its parts, and no part alone tells which."""

PARTS = ("beak", "eye", "crest", "wing", "tail", "legs")
"""The parts that define the class and can be left out; the body, with head and neck, is every bird's."""
VARIANTS = 5
"""Variants of each part, each with a shape and a colour of its own."""
CODE = tuple((a, *((b + k * a) % VARIANTS for k in range(VARIANTS))) for a in range(VARIANTS) for b in range(VARIANTS))
"""The variant of each of `PARTS`, for every class: a Reed-Solomon code over the integers modulo 5, [6, 2, 5].

The lines y = b + a x over a field of five elements: the slope a, and the values at x = 0 to 4. Two lines share at most one of these,
so that any two classes differ in at least five of the six parts. Every variant occurs in five classes, so one part alone leaves
five of them; every pair of variants of two parts occurs in exactly one class, so any two parts tell it.
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
"""Made-up species, in the order of `CODE`."""
