"""Files of weights: their formats, read as plain data without running code."""
