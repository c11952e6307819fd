"""Reading of attribution maps that were made elsewhere: .npy, .npz, HDF5, Zarr, or a folder of .npy files."""

from attrlib.data.maps.arrays import MapArrays, summed
from attrlib.data.maps.files import KINDS, open_maps
from attrlib.data.maps.uploads import UPLOADS, is_kept, keep, keep_array

__all__ = ["KINDS", "UPLOADS", "MapArrays", "is_kept", "keep", "keep_array", "open_maps", "summed"]
