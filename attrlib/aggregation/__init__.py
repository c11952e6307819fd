"""AggAtt: the maps of a whole data set, sorted by score and averaged in bins."""
