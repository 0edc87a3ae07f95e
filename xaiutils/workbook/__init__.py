"""What a notebook stands on: its start, parameters and run folder, and the walk through all of them."""

from xaiutils.workbook.run import Picture, Run, environment, progress, read_maps, start

__all__ = ["Picture", "Run", "environment", "progress", "read_maps", "start"]
