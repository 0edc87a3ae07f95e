"""What the names of classes say: which of two is to be detected, and that each is a text."""

import re
from collections.abc import Sequence
from itertools import pairwise

from xaiutils.text import counted

# Beginnings of words, in the languages of the sets that are met most: English, German, Spanish, Portuguese, French,
# Italian.
_DISEASE = (
    "malign", "bösartig", "boesartig", "abnormal", "abnorm", "anormal", "anomal", "positiv", "disease", "cancer",
    "krebs", "tumor", "tumour", "tumeur", "carcinom", "karzinom", "melanom", "sarcom", "lymphom", "metasta", "patholog",
    "patológ", "sick", "krank", "enferm", "unhealthy", "pneumoni", "lesion", "läsion", "lésion", "covid", "tubercul",
    "tuberkul", "infect", "fractur", "fraktur", "effusion", "nodul", "calcif", "defect", "suspicious", "glaucom",
    "retinopath", "hemorrhag", "haemorrhag", "blutung", "stroke", "opacity", "opacities", "atelecta", "cardiomegal",
    "edema",
)  # fmt: skip
_HEALTH = (
    "normal", "benign", "gutartig", "bénin", "health", "gesund", "negativ", "sano", "sana", "sain", "saud", "control",
    "kontroll", "uninfect", "unremarkable", "clear", "none", "nothing", "nichts",
)  # fmt: skip
_HEALTHY = ("normal", "health", "gesund", "sano", "sana", "sain", "saud")
_FINDING = ("finding", "befund", "lesion", "läsion", "lésion", "tumo", "mass", "nodul", "calcif", "abnorm", "disease")
_FEW_IMAGES = 5
# Whole names that say which is to be detected only as a pair; AD and CN: Alzheimer's disease, cognitively normal.
_PAIRS = {"ill": "well", "ad": "cn", "true": "false", "yes": "no", "y": "n", "pos": "neg", "case": "control"}
_NOT = ("no", "non", "not", "kein", "keine", "nicht", "without", "ohne", "sin", "sans", "senza", "sem")
_NOT_BEFORE = ("free", "frei", "negative", "negativ", "neg", "absent")
_JOINED = re.compile(r"^(?:non|not|no)(?=malign|cancer|tumou?r|lesion|disease|finding|covid|mass)")


def _words(name: str) -> list[str]:
    parted = re.sub(r"(?<=[a-zäöü])(?=[A-ZÄÖÜ])", " ", name).lower()  # NoTumor
    parted = re.sub(r"(?<=[^\W\d_]{3})(free|frei)\b", r" \1", parted)  # Tumorfrei
    return [part for word in re.findall(r"[^\W\d_]+", parted) for part in _JOINED.sub(r"no ", word).split()]


def says_disease(name: str) -> bool | None:
    """Whether the name of a class speaks of disease ("malignant", "pneumonia") or against it ("benign", "no tumor",
    "non-malignant"); None where it does neither, or both."""
    words = _words(name)
    said = set()
    for word, before, after in zip(words, ["", *words], [*words[1:], ""], strict=False):
        if word in _NOT:
            continue
        disease = word.startswith(_DISEASE) or word in ("mass", "masses")
        health = word.startswith(_HEALTH) or word in _NOT_BEFORE
        if before in _NOT:
            said.add(health)  # "not normal" is ill; "no" of anything else is well
        elif disease or health:
            said.add(disease and after not in _NOT_BEFORE)
    return said.pop() if len(said) == 1 else None


def says_healthy(name: str) -> bool:
    """Whether the name means that there is nothing to mark ("normal", "No Finding"), not only nothing bad ("benign",
    "not cancer")."""
    words = _words(name)
    nothing = any(w.startswith(_HEALTHY) for w in words) or any(
        before in _NOT and word.startswith(_FINDING) for before, word in pairwise(words)
    )
    marked = any(w.startswith(("benign", "bénin", "malign")) for w in words)
    return nothing and not marked and says_disease(name) is False


def positive_class(names: Sequence[str], given: str = "") -> tuple[int | None, str]:
    """The class that is to be detected: its number, and a sentence that says why it is that one.

    ``given`` names it; else, of two, pairs such as yes and no or names that speak of disease decide (see
    `says_disease`), else it is the last; of more there is none. Raises ValueError for a name that is not a class.
    """
    if given:
        if given not in names:
            raise ValueError(f"positive_class={given!r} is not one of the classes {', '.join(map(repr, names))}.")
        return list(names).index(given), f"The positive class is '{given}', as given."
    if len(names) != 2:
        return None, ""
    change = "positive_class= names another"
    plain = [name.strip().casefold() for name in names]
    for index, other in ((0, 1), (1, 0)):
        if _PAIRS.get(plain[index]) == plain[other]:
            return index, f"The positive class is '{names[index]}', the opposite of '{names[other]}'; {change}."
    said = [says_disease(name) for name in names]
    for wanted, how in (
        (True, "whose name speaks of disease"),
        (False, "since the other's name speaks against disease"),
    ):
        if said.count(wanted) == 1:
            index = said.index(wanted) if wanted else 1 - said.index(wanted)
            return index, f"The positive class is '{names[index]}', {how}; {change}."
    return 1, f"The positive class is '{names[1]}', the last one, since no name tells; {change}."


def doubtful_names(names: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Sentences on classes that were hardly meant: joined by separators, of very few images, or alike except for case,
    blanks or a number's form."""
    said = []
    joined = [name for name in names if re.search(r"\S\s*[|;,/]\s*\S", name)]
    if joined:
        said.append(
            f"{counted(len(joined), 'class looks', 'classes look')} like several labels in one, such as {joined[0]!r}: "
            "each combination is a class of its own; label_separator= of a table parts them."
        )
    rare = [f"{name!r} ({n})" for name, n in zip(names, counts, strict=True) if n < _FEW_IMAGES]
    if rare:
        more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
        said.append(
            f"{counted(len(rare), 'class has', 'classes have')} fewer than {_FEW_IMAGES} images: "
            f"{', '.join(rare[:5])}{more}: too few to be in every split; leave them out by classes=[...], or join them."
        )
    same: dict[str, str] = {}
    for name in names:
        key = re.sub(r"^(\d+)\.0+$", r"\1", "".join(name.casefold().split()))
        if same.setdefault(key, name) != name:
            said.append(f"the classes {same[key]!r} and {name!r} differ only in case, blanks or the form of a number.")
    return said


def check_class_names(names: Sequence[object], option: str = "classes") -> list[str]:
    """Names as texts. Raises TypeError for a single text, and for what YAML or Python took for something else."""
    if isinstance(names, str):
        raise TypeError(f"{option}={names!r} is one text; expected a list of names, such as [{names!r}, ...].")
    for name in names:
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise TypeError(
                f"{option} holds {name!r}, which is not a text: names are written in quotes, such as 'no' or '1.0'."
            )
    texts = [str(name) for name in names]
    if len(set(texts)) < len(texts):
        raise ValueError(f"{option}={texts} names a class twice.")
    return texts
