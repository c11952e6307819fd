"""Pictures and data sets. Importing the package registers the named data sets, and the kinds of data in memory."""

from attrlib.data import photos, birds, hub, memory, torch_data  # noqa: F401, I001  lists show data sets in the order of import
