"""LIME: a linear model of superpixels."""
