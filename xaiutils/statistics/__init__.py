"""Statistics, the same for models and for maps: bootstrap, intervals, tests, summaries and regression."""
