"""Other libraries' methods behind `xaiutils.explain`'s ``library``."""
