"""A user's own model: from its file, or as an object, to one that all calls take. See `wrap`."""

from xaiutils.own_model.describe import describe
from xaiutils.own_model.wrap import wrap

__all__ = ["describe", "wrap"]
