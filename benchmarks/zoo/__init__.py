"""The networks of the contract (`benchmarks/contract.py`), what is checked, and the page that says what was found."""

from zoo.checks import Subject
from zoo.foreign import foreign
from zoo.networks import Entry, networks

__all__ = ["Entry", "Subject", "foreign", "networks"]
