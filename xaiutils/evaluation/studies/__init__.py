"""Experiments on maps and models: more than one number for one map."""
