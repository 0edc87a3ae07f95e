"""Text of the data (class names, ids, file names) made safe where it is drawn or written: one function for each medium.

Control characters, line ends and the marks that turn the direction of what follows become blanks everywhere.
"""

import hashlib
import html as _html
import re
import unicodedata

_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")
# Brackets mean something before others, and a backslash before what it could hide.
_EVERYWHERE = re.compile(r"([\\`*|$]|~(?=~)|\](?=[(\[]))")
_AT_AN_EDGE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # within a word, as in vit_mini16, it means nothing
_AT_THE_START = re.compile(r"^(\d+)([.)])(?=\s)|^([#>=]|[+-](?=\s)|-(?=--))")
_HELD = "\u2060"  # word joiner: no width


def one_line(text: object) -> str:
    """``text`` without line ends, control characters or changes of direction; runs of blanks become one."""
    kept = (" " if c in _TURNING or unicodedata.category(c) in ("Cc", "Cs") else c for c in str(text))
    return " ".join("".join(kept).split())


def counted(n: int, one: str, several: str = "") -> str:
    """ "1 image", "2 images": a number before a word, whose plural is ``several`` or has an s."""
    return f"{n} {one if n == 1 else several or one + 's'}"


def drawn(text: object) -> str:
    """For matplotlib: dollars do not begin mathematics, and a leading underscore does not hide a curve from its legend.

    Line ends stay: captions are broken into lines by their writers.
    """
    said = "\n".join(one_line(line) for line in str(text).split("\n"))
    return (_HELD + said if said.startswith("_") else said).replace("$", r"\$")


def markdown(text: object) -> str:
    """For a line or a table's cell of Markdown, as GitHub and Jupyter (which also knows mathematics) read it."""
    said = _EVERYWHERE.sub(r"\\\1", one_line(text))
    said = _AT_AN_EDGE.sub(r"\\_", said)
    said = _AT_THE_START.sub(lambda m: f"{m[1]}\\{m[2]}" if m[1] else f"\\{m[3]}", said)
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", said))


def html(text: object) -> str:
    """For HTML, within an element or a quoted attribute."""
    return _html.escape(one_line(text), quote=True)


def file_name(text: object) -> str:
    """For a part of a file's name: letters, digits, ``-`` and ``_``, never hidden or longer than 80; where that changes
    the text, a few digits of its hash are added, so that two texts have two names."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", str(text)).strip("_-")[:70]
    if name and name == str(text):
        return name
    return f"{name or 'name'}_{hashlib.sha256(str(text).encode(errors='replace')).hexdigest()[:6]}"
