"""One file for each data set: from its folder to a `xaiutils.datasets.Listing`."""
