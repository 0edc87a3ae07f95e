"""Size and form of evidence, by hand."""

import numpy as np
import pytest

from xaiutils.datasets import ImageDataset
from xaiutils.evaluation.evidence_shape import SHAPE, evidence_shape


def test_shapes_by_hand():
    masks = np.zeros((6, 40, 40), bool)
    masks[0, 10:20, 10:20] = True  # a square
    masks[1, 5, 3:33] = True  # a line
    masks[2, 10:30, 10:30] = True
    masks[2, 20:30, 20:30] = False  # an L of three squares
    masks[3, 2:6, 2:6] = masks[3, 30:40, 30:40] = True  # two pieces
    masks[4, 7, 7] = True
    n = len(masks)
    ds = ImageDataset(np.zeros((n, 40, 40, 3), np.uint8), [0] * n, ("a",), [f"i{k}" for k in range(n)], masks)
    found = evidence_shape(ds)
    assert found["image_id"].tolist() == ds.ids
    assert found["area_share"].tolist() == pytest.approx([100 / 1600, 30 / 1600, 300 / 1600, 116 / 1600, 1 / 1600, 0])
    assert found["log_area"][0] == pytest.approx(np.log10(100 / 1600))
    assert found["parts"].tolist() == [1, 1, 1, 2, 1, 0]
    assert found["elongation"][[0, 1, 3, 4]].tolist() == pytest.approx([0, 1, 0, 0], abs=1e-6)
    # The L's second moments: those within a square, and those of the three centres.
    spread, product = (10**2 - 1) / 12 + 100 * 2 / 9, -100 / 9
    minor, major = np.sqrt(spread - abs(product)), np.sqrt(spread + abs(product))
    assert found["elongation"][2] == pytest.approx(1 - minor / major, rel=0.01)
    assert found["solidity"][[0, 1, 3]].tolist() == [1, 1, 1]
    assert found["solidity"][2] == pytest.approx(300 / 350, rel=0.02)  # its hull cuts half a square's corner
    assert found.loc[5, list(SHAPE)].isna().tolist() == [True, True, True, False]
    with pytest.raises(ValueError, match="has no masks"):
        evidence_shape(ImageDataset(ds.pixels, ds.labels, ds.class_names, ds.ids))
