"""Text of the data where it is drawn or written: no mathematics, no markup, no lost lines, no strange file names."""

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

from xaiutils import plots, text
from xaiutils.classification import Predictions, assess, model_card
from xaiutils.datasets import ImageDataset, datasheet

NASTY = (
    "a$x_{b$", "$5 - $10", "<img src=x onerror=1>", "a|b", "*b*", "_x_", "two\nlines", "\u202etxt.exe", "a\\$b", "`c`",
    "[l](javascript:1)", "# head", "&lt;", "~~s~~", "\u0645\u0631\u0636", "", "a\0b", "\ud800",
)  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
def test_matplotlib_draws_what_the_data_says(name):
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], label=text.drawn(name))
    axes.set_title(text.drawn(name))
    legend = axes.legend()
    figure.draw_without_rendering()
    shown, is_math = axes.title._preprocess_math(axes.title.get_text())
    assert is_math is False
    assert shown.removeprefix("\u2060") == "\n".join(text.one_line(line) for line in name.split("\n"))
    assert len(legend.get_texts()) == bool(text.one_line(name))


@pytest.mark.parametrize("name", NASTY)
def test_markdown_and_html_hold_no_markup(name):
    written = text.markdown(name)
    assert "\n" not in written
    assert not re.search(r"(?<!\\)(?:[`*|$]|<[A-Za-z/!?]|\](?=[(\[])|~~)", written)
    assert not re.search(r"&(?!lt;|amp;)#?\w+;", written)
    assert text.html(name).count("<") == text.html(name).count('"') == 0
    assert not set(text.one_line(name)) & set("\u202e\n\0\ud800")


def test_markdown_leaves_plain_words_alone():
    for plain in (
        "vit_mini16",
        "benign",
        "0.93 [0.9, 1]".replace("[", "(").replace("]", ")"),
        "1.5 mm",
        "-",
        "-3",
        "böse",
    ):
        assert text.markdown(plain) == plain
    assert text.markdown("_x_ a_b") == r"\_x\_ a_b"
    assert text.markdown("1. one") == r"1\. one"
    assert text.markdown("- one") == r"\- one"


def test_file_names_are_safe_and_apart():
    names = [text.file_name(n) for n in (*NASTY, "../../etc/passwd", ".hidden", "a|b", "a/b", "x" * 300)]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}", n) and n[0] not in ".-" for n in names)
    assert len(set(names)) == len(names) - 1  # "a|b" stands twice
    assert text.file_name("benign_1") == "benign_1"


def test_brackets_and_signs_without_a_meaning_stay():
    for plain in ("0.93 [0.90, 0.95]", "Tan & Le 2019", "a > b", "p < 0.001", "~5 mm", "(x)", "a_b"):
        assert text.markdown(plain) == plain
    assert text.markdown("[l](javascript:1)") == r"[l\](javascript:1)"


# Everything that draws or writes names of classes ---------------------------------------------------------------------

_TWO = [(a, b) for a, b in zip(NASTY[::2], NASTY[1::2], strict=True) if text.one_line(a) and text.one_line(b)]


def _set_of(names, n=12):
    rng = np.random.default_rng(0)
    return ImageDataset(
        rng.integers(0, 255, (n, 16, 16, 3), np.uint8), np.arange(n) % 2, names, [f"{names[0]} {i}" for i in range(n)],
        masks=rng.random((n, 16, 16)) > 0.5, patients=[f"{names[1]} {i}" for i in range(n)],
        metadata=pd.DataFrame({"view": [names[i % 2] for i in range(n)]}), notes=[f"of {names[0]}"],
        skipped=[(names[1], names[0])], name="folder", split="test",
    )  # fmt: skip


def _report_of(names, n=12):
    p = np.random.default_rng(1).random(n).astype(np.float32)
    found = Predictions(np.arange(n) % 2, np.stack([p, 1 - p], axis=1), names, ids=[str(i) for i in range(n)])
    return assess(found, name=names[0], split="test")


def _figures(names):
    ds, report, maps = _set_of(names), _report_of(names), np.random.default_rng(0).normal(size=(2, 16, 16))
    reports, splits = {names[0]: report, names[1]: report}, {"train": ds, "test": ds}
    history = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "val_loss": [2.0, 1.0], "accuracy": [0.5, 0.6]})
    history["val_accuracy"] = [0.5, 0.6]
    table = pd.DataFrame(
        [(str(i), m, "iou", i / 9, names[i % 2]) for m in names for i in range(9)],
        columns=["image_id", "method", "metric", "value", "correct"],
    )
    yield plots.class_balance(splits)
    yield plots.composition(splits)
    yield plots.image_grid(ds.take(2))
    yield plots.intensities(ds)
    yield plots.lesion_lengths({n: np.arange(3.0, 9) for n in names}, 16)
    yield plots.patch_grid(ds.take(1), (8,))
    yield plots.confusion_matrices({n: r.confusion for n, r in reports.items()})
    yield from (draw(reports) for draw in (plots.roc_curves, plots.precision_recall_curves, plots.reliability))
    yield plots.decision_curves(reports)
    yield plots.explanation(ds.images[0], maps[0], True, names[0], np.array([0.3, 0.7]), names, image_title=names[1])
    yield plots.attribution_grid(ds.images[:2], {"m": maps}, {"m": True}, names, {"m": names[0]}, title=names[1])
    yield plots.training_curves(dict.fromkeys(names, history))
    yield plots.scatter_pair(table, "iou", *names)
    yield plots.against(table.assign(x=1.0), "iou", "x", list(names), label=names[0])


@pytest.mark.parametrize("names", [("a$x_{b$", "_x_"), ("two\nlines", "$5 - $10")])
def test_every_figure_draws_names_as_they_are(names):
    """No mathematics, no error, no curve that its legend leaves out."""
    for figure in _figures(names):
        figure.draw_without_rendering()
        texts = [t for t in figure.findobj(Text) if any(w in t.get_text() for w in ("$", "_x_"))]
        own = [t for t in texts if "mathdefault" not in t.get_text()]
        assert not any(t._preprocess_math(t.get_text())[1] for t in own)
        for legend in figure.findobj(Legend):
            curves = [
                a
                for a in (legend.axes or figure.axes[0]).get_children()
                if str(a.get_label()).lstrip("\u2060") == names[0]
            ]
            assert not curves or any(text.drawn(names[0]) == t.get_text() for t in legend.get_texts())


@pytest.mark.parametrize("names", _TWO)
def test_every_text_is_free_of_markup(names):
    ds, report = _set_of(names), _report_of(names)
    for written in (datasheet({"test": ds}, {"classes": list(names)}), model_card(report, {"test": ds})):
        for line in written.splitlines():
            assert not re.search(r"(?<!\\)[$`]|<(?!a )|(?<!\\)\*\w", line.removeprefix("> ")), line
        tables = [line for line in written.splitlines() if line.startswith("| ")]
        head = [i for i, line in enumerate(tables) if set(line) <= set("| -:")]
        assert head
        for i in head:
            cells = [len(re.findall(r"(?<!\\)\|", line)) for line in tables[i - 1 : i + 2]]
            assert len(set(cells)) == 1
    assert "<img src=x" not in ds._repr_html_()  # the thumbnails are images as well, with an alt text first
