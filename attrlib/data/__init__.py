"""Pictures and data sets. Importing the package registers the named data sets."""

from attrlib.data import datasets, birds, hub  # noqa: F401, I001  lists show data sets in the order of import
