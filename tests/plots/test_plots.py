"""Figures: what they show, checked by numbers; and that pyplot's global state is left alone."""

import dataclasses
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from simulated_predictions import simulated

from xaiutils import plots
from xaiutils.classification import Predictions, assess
from xaiutils.datasets import ImageDataset, phantom
from xaiutils.evaluation.map_similarity import method_agreement
from xaiutils.evaluation.ranking import agreement, mean_ranks, rank
from xaiutils.plots.columns import fit_columns


@pytest.fixture(scope="module")
def ds(images):
    return ImageDataset(images.astype(np.uint8), [0, 1, 1, 0, 1], ("a", "b"), list("vwxyz"), images[..., 0] > 100)


def drawn(figure):
    """The figure as it is printed: at the width of one or two columns, with type that can be read there."""
    fit_columns(figure).savefig("/dev/null", format="png")
    assert figure.get_tightbbox().width < 7.25
    assert min(t.get_fontsize() for t in figure.findobj(Text) if t.get_text()) >= 6
    return figure


def test_display_range():
    signed = plots.display_range(np.array([-1.0, 4.0]), True)
    assert signed.vmin == -signed.vmax
    ramp = np.linspace(0, 1, 1001)
    limits = plots.display_range(ramp, False)
    assert (limits.vmin, limits.vmax) == (0, pytest.approx(0.99))
    for constant in (0.0, 3.0):
        for kind in (True, False):
            limits = plots.display_range(np.full((4, 4), constant), kind)
            assert limits.vmin < limits.vmax
    spike = np.zeros(10_000)
    spike[5] = 1
    assert plots.display_range(spike, True).vmax == 1
    assert plots.display_range(spike, False).vmax == 1


def test_columns_of_a_journal():
    figure = Figure(figsize=(14, 4), layout="constrained")
    for axes in figure.subplots(1, 7):
        axes.plot([0, 1], [0, 0.0012])
        axes.set_title("a title too long for its panel", fontsize=14)
    fit_columns(figure)
    assert figure.get_size_inches() == pytest.approx((7.2, 4 * 7.2 / 14))
    assert figure.axes[0].title.get_fontsize() == pytest.approx(7.2)
    assert figure.axes[0].get_title().count("\n") >= 2
    assert {t.get_fontsize() for t in figure.axes[0].get_xticklabels()} == {6}
    assert fit_columns(Figure(figsize=(4, 4))).get_figwidth() == fit_columns(figure, 1).get_figwidth() == 3.5
    with pytest.raises(ValueError, match="columns must be 1, 2 or 0"):
        fit_columns(figure, 3)


def test_class_balance_and_grid(ds):
    figure = drawn(plots.class_balance({"train": ds, "test": ds.take(2)}))
    assert [bar.get_height() for bar in figure.axes[0].patches] == [2, 3, 1, 1]
    figure = drawn(plots.image_grid(ds, columns=3))
    assert [a.get_title() for a in figure.axes][:5] == ["a", "b", "b", "a", "b"]


def test_training_curves_mark_the_kept_epoch():
    history = pd.DataFrame(
        {
            "epoch": [1, 2, 3],
            "loss": [3, 2, 1.0],
            "val_loss": [2, 1, 4.0],
            "accuracy": [0, 0.5, 1],
            "val_accuracy": [0, 1, 0.5],
        }
    )
    figure = drawn(plots.training_curves({"m": history}))
    dot = figure.axes[0].lines[2]
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (2, 1)


def test_training_curves_of_stages_and_auc():
    history = pd.DataFrame(
        {
            "epoch": [1, 2, 3, 4],
            "stage": ["head", "head", "all", "all"],
            "loss": [4, 3, 2, 1.0],
            "val_loss": [1, 2, 3, 4.0],
            "accuracy": [0, 0.5, 1, 1],
            "val_accuracy": [0, 1, 0.5, 0.5],
            "val_auc": [0.5, 0.6, 0.9, 0.8],
        }
    )
    history.attrs["kept_epoch"] = 3
    plain = history.drop(columns=["stage", "val_auc"])
    figure = drawn(plots.training_curves({"m": history, "n": plain}))
    loss, auc = figure.axes[0], figure.axes[4]
    dots = [line for line in loss.lines if line.get_marker() == "o"]
    assert [(d.get_xdata()[0], d.get_ydata()[0]) for d in dots] == [(3, 3)]  # though epoch 1 has the lowest loss
    assert [list(line.get_xdata()) for line in loss.lines if len(set(line.get_xdata())) == 1][1:] == [[2.5, 2.5]]
    assert [t.get_text() for t in figure.axes[2].texts] == ["head", "all"]
    assert auc.get_ylabel() == "AUC"
    assert auc.lines[0].get_ydata().tolist() == [0.5, 0.6, 0.9, 0.8]
    assert not figure.axes[5].axison
    assert figure.axes[3].get_xlabel() == "epoch"


@pytest.fixture(scope="module")
def reports():
    found, validation = (
        simulated(200, names=("benign", "malignant")),
        simulated(99, seed=1, names=("benign", "malignant")),
    )
    worse = simulated(200, skill=0.3, names=found.class_names)
    return {"CNN": assess(found, validation), "ViT": assess(worse)}


def test_roc_curves(reports):
    axes = drawn(plots.roc_curves(reports, screening=True)).axes[0]
    curves = {line.get_label(): line for line in axes.lines if len(line.get_xdata()) > 2}
    for name, report in reports.items():
        row = report.metrics.loc["AUC"]
        label = f"{name}: AUC {row['value']:.2f} [{row['low']:.2f} to {row['high']:.2f}]"
        x, y = curves[label].get_data()
        assert np.trapezoid(y, x) == pytest.approx(row["value"])
    assert (
        axes.get_title()
        == f"ROC, test split, per image\n{(reports['CNN'].predictions.labels == 1).sum()} of 200 are 'malignant'"
    )
    marks = {(line.get_marker(), line.get_color()): line for line in axes.lines if len(line.get_xdata()) == 1}
    point = reports["CNN"].operating_points.iloc[0]
    mark = marks["o", plots.COLOURS[0]]
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (1 - point["specificity"], point["sensitivity"])
    assert mark.get_markerfacecolor() != "white"
    assert marks["o", plots.COLOURS[1]].get_markerfacecolor() == "white"  # chosen on the images themselves
    star = marks["*", "black"]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == pytest.approx((0.111, 0.869))


def test_precision_recall_curves(reports):
    axes = drawn(plots.precision_recall_curves(reports)).axes[0]
    level = next(line for line in axes.lines if line.get_linestyle() == ":").get_ydata()[0]
    assert level == pytest.approx((reports["CNN"].predictions.labels == 1).mean())
    x, y = next(line for line in axes.lines if line.get_label().startswith("CNN")).get_data()
    area = (np.diff(x, prepend=0) * y).sum()
    assert area == pytest.approx(reports["CNN"].summary["average precision"])


def test_curves_of_many_classes():
    report = assess(simulated(300, 8))
    figure = drawn(plots.roc_curves({"m": report, "n": report}))
    assert len(figure.axes) == 2
    texts = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    worst = report.class_intervals["AUC"].idxmin()
    assert texts[0].startswith(f"{worst}: AUC")
    assert texts[-1] == "the other classes"
    assert len(texts) == 7
    drawn(plots.precision_recall_curves({"m": report}))


def test_reliability_and_decision_curves(reports):
    figure = drawn(plots.reliability(reports))
    bins = reports["CNN"].reliability
    line = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
    np.testing.assert_allclose(line.get_xdata().astype(float), bins["probability"])
    np.testing.assert_allclose(line.get_ydata().astype(float), bins["frequency"])
    assert f"ECE {reports['CNN'].calibration['ECE'].iloc[0]:.3f}" in figure.axes[0].get_title()
    bars = figure.axes[2].containers
    assert sum(bar.get_height() for bars_of in bars for bar in bars_of) == 200
    axes = drawn(plots.decision_curves(reports)).axes[0]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["CNN", "ViT", "treat all", "treat none"]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), reports["CNN"].decision["model"])
    drawn(plots.reliability({"m": assess(simulated(40, 3))}))
    with pytest.raises(ValueError, match="name a positive class"):
        plots.decision_curves({"m": assess(simulated(40, 3))})


def test_confusion_of_other_classes():
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.2, 0.7, 0.1]])
    confusion = assess(Predictions([0, 0, 1], p, ("a", "b"))).confusion
    axes = drawn(plots.confusion_matrices({"m": confusion})).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "b", "(other classes)"]
    assert [t.get_text() for t in axes.texts] == ["1", "0", "1", "0", "1", "0"]


def test_confusion_counts_are_written():
    confusion = pd.DataFrame([[5, 1], [0, 2]], index=["a", "b"], columns=["a", "b"])
    figure = drawn(plots.confusion_matrices({"m": confusion, "n": confusion}))
    assert [t.get_text() for t in figure.axes[0].texts] == ["5", "1", "0", "2"]


def test_explanation_and_grid(ds, images):
    maps = images[..., 0] - 100
    figure = drawn(plots.explanation(images[0], maps[0], True, "t", np.array([0.2, 0.8]), ["a", "b"], ds.masks[0]))
    assert figure.axes[1].get_title() == "t"
    rows = ["original", "other"]
    figure = plots.attribution_grid(
        images[:2], {"m": maps[:2]}, {"m": True}, rows, {"m": "Method"}, ds.masks[:2], "title"
    )
    drawn(figure)
    assert figure.axes[0].texts[0].get_text() == "original"
    assert figure.axes[1].get_title() == "Method"


def test_a_gallery_keeps_families_together(ds, images):
    names = [*"abcdefgh"]
    families = {name: "X" if name in "ah" else "Y" for name in names}
    maps, titles = dict.fromkeys(names, images[0, ..., 0]), {name: name.upper() for name in names}
    figure = drawn(plots.gallery(images[0], maps, families, dict.fromkeys(names, False), titles, ds.masks[0]))
    rows = [[axes.get_title() for axes in figure.axes[i : i + 7]] for i in (0, 7)]
    assert rows == [["", "input", "A", "H", "", "", ""], ["", *"BCDEFG"]]
    assert [figure.axes[i].texts[0].get_text() for i in (0, 7)] == ["X", "Y"]
    six = {name: "X" if name in "abcdef" else "Y" for name in names}  # and the image
    six["z"] = "X"  # of a method without a map here
    figure = drawn(plots.gallery(images[0], maps, six, dict.fromkeys(names, False), titles, ds.masks[0]))
    rows = [[axes.get_title() for axes in figure.axes[i : i + 8]] for i in (0, 8)]
    assert rows == [["", "input", *"ABCDEF"], ["", "G", "H", "", "", "", "", ""]]


@pytest.mark.parametrize(("value", "words"), [(0.0, "all 0"), (0.3, "all 0.3"), (-2.0, "all -2")])
def test_an_even_map_has_no_colours(images, value, words):
    for signed in (True, False):
        even = np.full(images.shape[1:3], value, np.float32)
        figure = drawn(plots.explanation(images[0], even, signed, "t", np.array([0.2, 0.8]), ["a", "b"]))
        assert len(figure.axes) == 3, "a colour bar of a range that is not there"
        assert [t.get_text() for t in figure.axes[1].texts] == [words]
        picture = figure.axes[1].images[0].get_array()
        assert (picture.min(axis=-1) == picture.max(axis=-1)).all()  # grey


def test_forest_shows_means_chance_and_gaps():
    summary = pd.DataFrame(
        {"method": ["g", "random"] * 2, "metric": ["iou"] * 4, "model": ["m", "m", "n", "n"],
         "mean": [0.5, 0.1, np.nan, 0.2],
         "low": [0.4, 0.0, np.nan, 0.1], "high": [0.6, 0.2, np.nan, 0.3]}
    )  # fmt: skip
    figure = drawn(plots.forest(summary, {"iou": "IoU"}, {"iou": 0.15}, ["random"]))
    axes = figure.axes[0]
    marks = [
        line.get_xdata()
        for line in axes.lines
        if line.get_marker() not in ("None", None) and len(line.get_xdata()) == 1
    ]
    assert sorted(float(m[0]) for m in marks) == [0.1, 0.2, 0.5]
    assert any(list(line.get_xdata()) == [0.15, 0.15] for line in axes.lines)
    assert [t.get_text() for t in axes.get_yticklabels()] == ["g", "random"]


def test_forest_draws_random_weights_in_the_row_of_the_method():
    summary = pd.DataFrame(
        {"method": ["g", "g", "h"], "weights": ["trained", "random", "trained"], "metric": "iou", "model": "m",
         "mean": [0.5, 0.2, 0.4], "low": [0.4, 0.1, 0.3], "high": [0.6, 0.3, 0.5]}
    )  # fmt: skip
    axes = drawn(plots.forest(summary, {"iou": "IoU"}, {}, [])).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["g", "h"]
    marks = {float(m.get_xdata()[0]): m for m in axes.lines if m.get_marker() == "o" and len(m.get_xdata()) == 1}
    assert {x: m.get_ydata()[0] for x, m in marks.items()} == {0.5: 0, 0.2: 0, 0.4: 1}
    assert [marks[x].get_markerfacecolor() == "white" for x in (0.5, 0.2, 0.4)] == [False, True, False]
    images = pd.DataFrame({"method": ["g", "g", "h"], "metric": "iou", "model": "m", "value": [0.1, 0.9, 0.4]})
    axes = drawn(plots.forest(summary, {"iou": "IoU"}, {}, [], images)).axes[0]
    dots = np.concatenate([c.get_offsets() for c in axes.collections])
    assert sorted(map(tuple, dots.tolist())) == [(0.1, 0), (0.4, 1), (0.9, 0)]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["g", "h"]


def long_table(values, methods, metric="iou"):
    return pd.DataFrame(
        [
            {"method": m, "image_id": f"i{i}", "metric": metric, "value": values[i][k], "correct": i % 2 == 0}
            for i in range(len(values))
            for k, m in enumerate(methods)
        ]
    )


def test_critical_difference_diagram():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 0.05, (60, 4)) + np.array([0, 0, 0.5, 0.5])
    ranking = rank(long_table(values, "abcd"), "iou")
    axes = drawn(plots.critical_difference(ranking, {"a": "Method A"})).axes[0]
    texts = [t.get_text().strip() for t in axes.texts]
    best, worst = ranking.ranks.index[0], ranking.ranks.index[-1]
    assert any(t.startswith(f"{best.replace('a', 'Method A')}  ") for t in texts)
    assert any(t.endswith(f"  {worst.replace('a', 'Method A')}") for t in texts)
    assert f"critical difference {ranking.critical:.2f}" in texts
    bars = [line for line in axes.lines if line.get_linewidth() == 4]
    ends = sorted(tuple(bar.get_xdata().round(2)) for bar in bars)
    expected = [(ranking.ranks[g[0]] - 0.03, ranking.ranks[g[-1]] + 0.03) for g in ranking.groups]
    np.testing.assert_allclose(ends, sorted(expected), atol=0.01)
    assert "over 60 units, p < 0.001" in axes.get_title()
    same = drawn(plots.critical_difference(rank(long_table(rng.normal(size=(9, 3)), "abc"), "iou"))).axes[0]
    assert "no difference found" in same.get_title()
    assert len([line for line in same.lines if line.get_linewidth() == 4]) == 1


def test_heat_maps_print_their_numbers():
    table = pd.concat([long_table([[3, 2, 1]] * 3, "abc"), long_table([[1, 2, 3]] * 3, "abc", "deletion_auc")])
    ranks = mean_ranks(table)
    axes = drawn(plots.rank_heatmap(ranks, {"a": "A"}, ["c"])).axes[0]
    assert [t.get_text() for t in axes.texts] == ["1.0", "1.0", "2.0", "2.0", "3.0", "3.0"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["A", "b", "c"]
    assert [t.get_color() for t in axes.get_yticklabels()] == ["black", "black", "0.5"]
    assert [t.get_text() for t in axes.get_xticklabels()] == [
        "IoU\n(higher is better)",
        "Deletion AUC\n(lower is better; does not separate)",
    ]
    holed = drawn(plots.rank_heatmap(ranks.mask(ranks == 3))).axes[0]
    assert len(holed.texts) == 4
    texts = [t.get_text() for axes in drawn(plots.agreement_heatmap(agreement(table))).axes for t in axes.texts]
    assert texts == ["1.00"] * 4


def test_small_panels_of_lines_share_one_scale():
    """A panel for each of ``panel``, the line and band of each of ``by``, whether or not it is in every panel."""
    row = {"low": 0.1, "high": 0.9}
    points = [("a", "p", 0, 1.0), ("a", "p", 1, 0.5), ("a", "q", 0, 0.8), ("b", "p", 0, 0.2)]
    table = pd.DataFrame([{"of": of, "by": by, "x": x, "mean": y, **row} for of, by, x, y in points])
    how = {"x": "part", "mean": "accuracy", "b": "noise", "p": "by pixel"}
    figure = drawn(plots.summary_lines(table, "x", "by", "of", how, logarithmic=False, small=True))
    first, second = figure.axes[:2]
    assert [axes.get_title() for axes in (first, second)] == ["a", "noise"]
    assert first.get_ylim() == second.get_ylim()
    assert [line.get_ydata().tolist() for line in first.lines] == [[1.0, 0.5], [0.8]]
    assert [line.get_ydata().tolist() for line in second.lines] == [[0.2], []]
    assert [t.get_text() for t in figure.legends[0].texts] == ["by pixel", "q"]
    assert (first.get_xlabel(), second.get_xlabel(), figure.get_supylabel()) == ("part", "part", "accuracy")
    wide = drawn(plots.summary_lines(table, "x", "by", "of", how, logarithmic=False))
    assert wide.axes[0].get_ylim() != wide.axes[1].get_ylim()


def test_maps_that_agree_are_beside_each_other():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 2, 16, 16))
    maps = {"a": one, "b": other, "c": 2 * one + 0.1 * other, "even": np.ones((2, 16, 16)), "d": -other}
    table = method_agreement(maps, "signed")
    assert table.loc["b", "d"] == pytest.approx(-1)
    assert table["even"].isna().all()
    assert method_agreement(maps)["b"]["d"] == pytest.approx(1)
    heat = next(axes for axes in drawn(plots.cluster_map(table, "correlation", {"a": "A$"})).axes if axes.texts)
    names = [t.get_text() for t in heat.get_yticklabels()]
    assert abs(names.index(r"A\$") - names.index("c")) == 1
    assert len(heat.texts) == 16, "what is not known is blank"
    row, column = names.index("b"), names.index(r"A\$")
    numbers = {t.get_position(): t.get_text() for t in heat.texts}
    assert numbers[column + 0.5, row + 0.5] == f"{table.loc['a', 'b'] + 0.0:.2f}"


def test_metrics_in_pairs():
    table = pd.concat(
        [long_table([[0.1, 0.2], [0.3, 0.9]], "ab", metric) for metric in ("iou", "dice", "pointing_game")]
    )
    grid = drawn(plots.metric_pairs(table, {"a": "A"}))
    pair = next(axes for axes in grid.axes if (axes.get_xlabel(), axes.get_ylabel()) == ("IoU", "Pointing game"))
    assert sorted(map(tuple, np.concatenate([c.get_offsets() for c in pair.collections]).tolist()))[0] == (0.1, 0.1)
    assert [t.get_text() for t in grid.legends[0].get_texts()] == ["A", "b"]
    with pytest.raises(ValueError, match="1 metrics; 2 to 6"):
        plots.metric_pairs(table[table["metric"] == "iou"])


def test_two_methods_image_by_image():
    values = [[0.9, 0.1], [0.2, 0.3], [0.8, 0.4], [np.nan, 1]]
    axes = drawn(plots.scatter_pair(long_table(values, "ab"), "iou", "a", "b", {"a": "A"})).axes[0]
    assert axes.get_xlabel() == "A (larger on 2)"
    assert axes.get_ylabel() == "b (larger on 1)"
    dots = np.concatenate([c.get_offsets() for c in axes.collections])
    assert sorted(map(tuple, dots.round(3).tolist())) == [(0.2, 0.3), (0.8, 0.4), (0.9, 0.1)]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["correct: False", "correct: True"]
    with pytest.raises(ValueError, match="not both in the table"):
        plots.scatter_pair(long_table(values, "ab"), "iou", "a", "c")


def test_a_metric_against_a_fact_of_the_image():
    table = long_table([[k, 1] for k in range(5)], "ab")
    table["size"] = [k // 2 * 2 for k in range(10)]
    figure = drawn(plots.against(table, "iou", "size", ["a", "b"], "size of it"))
    (line,) = figure.axes[0].lines
    ends = line.get_xydata()[[0, -1]].ravel().tolist()
    assert ends == pytest.approx([0, 0, 8, 4])
    assert set(figure.axes[1].lines[0].get_ydata().round(9)) == {1}
    same = drawn(plots.against(table.assign(size=1), "iou", "size", ["a"]))
    assert not same.axes[0].lines


def test_means_of_many_models():
    rows = [("a", "iou", f"m{k}", 0.5, 0.4, 0.6) for k in range(9)]
    summary = pd.DataFrame(rows, columns=["method", "metric", "model", "mean", "low", "high"])
    images = summary.assign(value=0.5)[["method", "metric", "model", "value"]]
    assert len(drawn(plots.forest(summary, {"iou": "IoU"}, {}, [], images)).legends[0].get_texts()) == 9


def test_two_orders_of_methods():
    ranks = pd.DataFrame({"masks": [1, 2.5, 3], "model": [2, 1, np.nan]}, index=["a", "b", "c"])
    figure = drawn(plots.two_orders({"m": ranks, "n": ranks[1:2]}, {"a": "A"}))
    points = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines[1:]}
    assert points == {"A": [[1, 2]], "b": [[2.5, 1]]}
    colours = [{line.get_label(): line.get_color() for line in axes.lines[1:]} for axes in figure.axes[:2]]
    assert colours[0] == colours[1], "one legend for all panels"
    assert all(axis.get_inverted() for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis))


def test_images_of_disagreement(ds, images):
    maps = {"a": images[..., 0], "b": images[..., 1]}
    found = pd.DataFrame({"image_id": ["y", "v"], "a": [0.9, 0.1], "b": [0.2, 0.6]})
    figure = drawn(plots.disagreement_grid(ds, maps, found, "a", "b", "iou", {"a": False, "b": False}, {"a": "A"}))
    assert [figure.axes[k].texts[0].get_text() for k in (0, 3)] == ["a\n0.90 | 0.20", "a\n0.10 | 0.60"]
    assert [figure.axes[k].get_title() for k in (1, 2)] == ["A", "b"]
    axes = Figure().subplots()
    plots.draw_map(axes, ds.images[3], maps["a"][3], False, opacity=0.9)
    np.testing.assert_array_equal(*(a.get_images()[0].get_array() for a in (axes, figure.axes[1])))
    assert figure.get_suptitle() == "IoU: A | b"


def test_pyplot_is_not_used(ds):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plots.class_balance({"train": ds})
    plots.image_grid(ds)
    plots.cluster_map(pd.DataFrame(np.eye(3)), "agreement")
    assert plt.get_fignums() == before


def test_composition_shows_what_varies(ds):
    views = pd.DataFrame({"view": ["CC", "MLO", "MLO", "CC", None], "side": "L"})
    figure = plots.composition({"train": dataclasses.replace(ds, metadata=views), "test": ds})
    by_split, by_class = figure.axes
    assert by_split.get_title() == "view"  # one side alone says nothing
    assert [t.get_text() for t in by_split.get_xticklabels()] == ["CC", "MLO", "not stated"]
    assert [bar.get_height() for bar in by_split.patches] == pytest.approx([0.4, 0.4, 0.2])
    assert [bar.get_height() for bar in by_class.patches] == pytest.approx([1, 0, 0, 0, 2 / 3, 1 / 3])
    assert plots.composition({"train": ds}) is None


def test_many_classes_stay_readable(ds):
    names = tuple(f"a breed with a long name {i}" for i in range(37))
    many = dataclasses.replace(ds, class_names=names)
    figure = drawn(plots.class_balance({"train": many, "test": many}))
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == list(names)
    boxes = [t.get_window_extent() for t in axes.get_yticklabels()]
    assert all(not one.overlaps(other) for one, other in pairwise(boxes))
    assert [line.get_label() for line in plots.intensities(many).axes[0].get_lines()] == ["all classes"]


def test_intensities_are_parts_of_the_pixels(ds):
    lines = plots.intensities(ds).axes[0].get_lines()
    assert [line.get_label() for line in lines] == list(ds.class_names)
    for line in lines:
        assert line.get_ydata().sum() == pytest.approx(1)


def test_lengths_of_the_evidence():
    figure = plots.lesion_lengths({"a": np.array([4.0, 8.0, 30.0, np.nan]), "b": np.array([2.0])}, 224)
    axes = figure.axes[0]
    assert axes.get_xlabel().startswith("length in pixels of 224")
    assert [line.get_xdata()[0] for line in axes.get_lines() if line.get_linestyle() == "--"] == [8, 2]
    many = {str(i): np.array([4.0, 5.0]) for i in range(10)}
    assert len(plots.lesion_lengths(many, 224).axes[0].get_legend().get_texts()) == 1
    assert plots.lesion_lengths({"a": np.array([7.0])}, 224) is not None  # one mask, or all alike
    assert plots.lesion_lengths({}, 224) is None
    assert plots.lesion_lengths({"a": np.array([np.nan])}, 224) is None


def test_patches_and_twins(ds):
    grid = plots.patch_grid(ds.take(1), (8,))
    n = ds.image_size // 8
    assert f"{n} x {n} = {n * n} patches of 8" in grid.axes[0].get_title()
    assert sum(len(line.get_xdata()) == 2 for line in grid.axes[0].get_lines()) == 2 * (n + 1)
    one = phantom.generate(1, 32)
    figure = plots.twins([one], [phantom.counterfactual(one)], ("benign", "malignant"))
    assert [a.get_title() for a in figure.axes[:2]] == ["malignant", "benign"]
    np.testing.assert_array_equal(figure.axes[2].get_images()[0].get_array(), one.evidence)


def test_tables_beside_each_other_and_the_front_of_two_scores():
    theirs = pd.DataFrame({"layer1": [1.0, 2.0], "4+3": [3.0, np.nan]}, index=["grad_cam", "hirescam"])
    wrong = theirs.notna() & (theirs == 2)
    figure = plots.cell_tables({"theirs": theirs, "ours": theirs * 0.01}, flagged={"theirs": wrong})
    assert [a.get_title() for a in figure.axes] == ["theirs", "ours"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.00", "3.00", "2.00"]
    assert [len(a.get_lines()) for a in figure.axes] == [1, 0]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "4+3"]
    cells = pd.DataFrame({"method": list("aabb"), "layer": ["layer1", "4+3"] * 2, "x": [0, 1, 2, 1], "y": [3, 2, 0, 1]})
    front = plots.pareto(cells, ("x", "y")).axes[0].get_lines()[-1]
    assert list(front.get_xdata()) == [0, 1, 2]
