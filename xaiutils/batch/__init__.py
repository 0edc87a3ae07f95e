"""A matrix of notebook runs that survives the night: ``python -m xaiutils.batch matrix.yml``.

A matrix (`matrix`) becomes jobs (`plan`), each one notebook with one set of parameters. What they need is checked
(`preflight`), then Snakemake (``Snakefile``) starts each in a process of its own (`job`), which leaves a folder with a
marker (`marker`). `report` shows all of them, `pack` makes an archive for a colleague. docs/batch.md is the guide.
"""
