"""What a notebook stands on: its start, parameters and run folder, and all notebooks in a row."""

from xaiutils.progress import progress
from xaiutils.workbook.environment import environment
from xaiutils.workbook.map_files import read_maps
from xaiutils.workbook.picture import Picture
from xaiutils.workbook.run import Run, start

__all__ = ["Picture", "Run", "environment", "progress", "read_maps", "start"]
