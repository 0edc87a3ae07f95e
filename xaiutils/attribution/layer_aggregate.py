"""One map from the maps of several layers."""
