"""Pictures and data sets. Importing the package registers the data sets that have a name."""

from attrlib.data import datasets, birds, hub  # noqa: F401, I001  the order of lists
