"""Statistics over results: how protocols agree, what the papers report, which items to look at."""
