"""What a notebook stands on: its start, parameters and run folder, and all notebooks in a row.

`Run`, `start` and what they need load on first use: a batch starts a process for every cell of its matrix, which needs
`xaiutils.workbook.execute` and no TensorFlow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xaiutils.progress import progress
from xaiutils.workbook.environment import environment

if TYPE_CHECKING:
    from xaiutils.workbook.map_files import read_maps
    from xaiutils.workbook.notebook_start import start
    from xaiutils.workbook.picture import Picture
    from xaiutils.workbook.run import Run

_PUBLIC = {
    "Picture": "xaiutils.workbook.picture",
    "Run": "xaiutils.workbook.run",
    "read_maps": "xaiutils.workbook.map_files",
    "start": "xaiutils.workbook.notebook_start",
}
__all__ = ["Picture", "Run", "environment", "progress", "read_maps", "start"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'xaiutils.workbook' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
