"""What is known of the metrics themselves: which tell the evidence from maps that only look like it.

The card was measured on phantoms whose evidence is exact, and a network that uses it: `benchmarks/metric_card.md`.
`xaiutils.evaluation.studies.metric_card` measures one on other images and models.
"""

from functools import cache
from importlib.resources import files

import pandas as pd

LEAST = 0.9  # the AUC under which a metric does not separate


@cache
def _card() -> pd.DataFrame:
    return pd.read_csv(files("xaiutils.evaluation.metrics").joinpath("metric_card.csv").open()).set_index("metric")


def known_card() -> pd.DataFrame:
    """A row for each metric that scores a given map; columns of `xaiutils.evaluation.studies.metric_card.card`."""
    return _card().reset_index()


def fails_on(metric: str) -> str:
    """The impostor that a metric tells least from the evidence, where it does so with an AUC under `LEAST`; "" where
    it separates all, and where it is not on the card, as it judges methods and no maps."""
    card = _card()
    fails = metric in card.index and not card.loc[metric, "worst"] >= LEAST
    return str(card.loc[metric, "impostor"]) if fails else ""


def with_warning(name: str, metric: str) -> str:
    """What a metric is called in a table or a figure, and that it does not separate, where that is so."""
    return f"{name} (does not separate)" if fails_on(metric) else name
