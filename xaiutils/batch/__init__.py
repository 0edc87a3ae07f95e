"""A matrix of notebook runs that survives the night: ``python -m xaiutils.batch matrix.yml``.

A matrix (`matrix`) becomes jobs (`plan`), each one notebook with one set of parameters in a folder of its own, started
by Snakemake or by a plain loop (`engine`), run in a process of its own (`job`), marked as done with checksums (`store`)
and shown together (`report`). `pack` makes an archive for a colleague. docs/batch.md is the guide.
"""
