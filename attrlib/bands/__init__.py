"""Pictures that are not 8-bit RGB: any number of channels, up to 32 bits each."""

from attrlib.bands.values import GREY_WEIGHTS, Bands, Pictured, bands_of, default_shown, rgb_of

__all__ = ["GREY_WEIGHTS", "Bands", "Pictured", "bands_of", "default_shown", "rgb_of"]
