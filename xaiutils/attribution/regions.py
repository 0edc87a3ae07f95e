"""XRAI: regions ranked by another method's map."""
