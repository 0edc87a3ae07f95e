"""What the page on LibraGrad's heads and images counts, and how scores of few images are told from the others."""

import attributions
import balanced_gradients as page
import numpy as np
import pandas as pd
import pytest


def test_variances_by_hand():
    heads, images = np.array([0.0, 2.0]), np.array([0.0, 3.0, 6.0])
    of_heads, of_images, rest = page.variances(heads[:, None] + images)
    assert (of_heads, of_images, rest) == pytest.approx((2, 9, 0))  # variances of 0, 2 and of 0, 3, 6
    assert page.share_of_heads(heads[:, None] + images) == pytest.approx(2 / 11)
    crossed = np.array([[1.0, -1.0], [-1.0, 1.0]])  # neither heads nor images differ by their means
    assert page.variances(crossed) == pytest.approx((-2, -2, 4))
    assert page.share_of_heads(np.ones((3, 4))) == 0


def test_variances_of_drawn_values_are_those_drawn_from():
    rng = np.random.default_rng(0)
    found = [
        page.variances(1.0 * rng.normal(size=(6, 1)) + 2.0 * rng.normal(size=(1, 8)) + 0.5 * rng.normal(size=(6, 8)))
        for _ in range(2000)
    ]
    assert np.mean(found, axis=0) == pytest.approx([1, 4, 0.25], rel=0.06)


def test_an_interval_holds_heads_and_images():
    values = np.array([0.0, 1.0, 2.0])[:, None] + np.zeros((1, 5))
    mean, low, high = page._crossed(values)
    half = 4.302652730 * np.sqrt(1 / 3)  # Student's t of 2 degrees of freedom, of three heads that alone differ
    assert (mean, low, high) == pytest.approx((1, 1 - half, 1 + half))


def test_columns_of_heads_are_units_of_their_own():
    columns = [page.column_of(k, h, c) for k in page.KINDS for h in range(page.HEADS) for c in range(2)]
    assert columns == list(range(len(page.KINDS) * page.HEADS * 2))


def test_expensive_methods_are_compared_on_the_images_that_they_have():
    rows = [(method, f"i{i}", attributions.LOCATED[0]) for method in ("grad_cam", "random") for i in range(4)]
    rows += [("sobol", f"i{i}", attributions.LOCATED[0]) for i in (1, 3)]
    rows += [("hsic", f"i{i}", attributions.LOCATED[0]) for i in range(4)]  # has all: it stays with the others
    scores = pd.DataFrame(rows, columns=["method", "image_id", "metric"])
    methods, shared = attributions.few_images(scores)
    assert methods == ["sobol"]
    assert set(shared["image_id"]) == {"i1", "i3"}
    assert shared.groupby("method").size().to_dict() == {"grad_cam": 2, "random": 2, "sobol": 2, "hsic": 2}
    assert attributions.few_images(scores[scores["method"] != "sobol"])[0] == []
