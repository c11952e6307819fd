"""The lessons of the page Learn: one module each, and the frame that shows them."""
