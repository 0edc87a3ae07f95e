"""Text of the data where it is drawn or written: no mathematics, no markup, no lost lines, no strange file names."""

import re

import pytest
from matplotlib.figure import Figure

from xaiutils import text

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
    assert not re.search(r"(?<!\\)[`*\[\]|$~<>]", written)
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
