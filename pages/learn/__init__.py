"""The lessons of the Learn page, one module each, and the frame that shows them."""
