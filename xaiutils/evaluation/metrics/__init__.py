"""One file for each family of metrics; `xaiutils.evaluation.METRICS` has them all."""
