"""RISE: random masks."""
