"""What a caller may do at the end of each epoch, see `train`'s ``callbacks``."""

from typing import Any

import pandas as pd

from xaiutils.backend import keras


class StopTraining(Exception):
    """Raised by a callback to end the run after this epoch; its text says why. The best epoch's weights are kept."""


class Callback:
    """Does nothing; derive from it what is to be done."""

    def on_epoch_end(self, epoch: int, model: keras.Model, row: dict[str, Any]) -> None:
        """After each epoch (from 1). ``model`` is the one given to `train`, with the weights of this epoch; it must not
        be changed. ``row`` becomes a row of the history: Python numbers that are added to it become columns."""

    def on_train_end(self, history: pd.DataFrame) -> None:
        """When training has ended and its files are written; not after an error."""
