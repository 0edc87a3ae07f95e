"""Everything that one picture of the panel depends on, as data: compared, written to JSON, and read again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Real
from typing import Any

from xaiutils.attribution import METHODS
from xaiutils.attribution.libraries import ADAPTERS
from xaiutils.evaluation.thresholds import THRESHOLD
from xaiutils.registry import Parameter, check_parameters, suggest
from xaiutils.transforms import TRANSFORMS

MOST_MAPS = 3
STYLES = {"overlay": "overlay", "contour": "contour lines", "alone": "map alone"}
READ_AS = {
    "own": "as declared",
    "signed": "with their sign",
    "positive": "positive part",
    "magnitude": "magnitude",
}
THRESHOLDS = {"mean_std": "mean + 1 SD", "otsu": "Otsu", "fixed": "a fixed level", "top_area": "the highest pixels"}
SCALES = {"own": "one for each", "shared": "shared"}
# Colour maps by whether the map is signed; all are readable with any colour vision.
PALETTES = {
    "standard": {False: "viridis", True: "RdBu_r"},
    "earth": {False: "cividis", True: "PRGn"},
    "fire": {False: "inferno", True: "BrBG_r"},
}
Box = tuple[int, int, int, int]
GREYS = (0, 255)  # black and white of an image as it is
_MOST = 1e9  # pixels; NaN and what is infinite is not below it
_NUMBERS = (
    Parameter("image", int, 0, "position in the data set"),
    Parameter("target", int, -1, "class index; -1: the predicted one", -1),
    Parameter("seed", int, 0, "of the transform's random draws", 0),
    Parameter("opacity", float, 0.8, "of an overlay", 0.0, 1.0),
    *(Parameter(name, bool, False, "an outline") for name in ("show_found", "show_mask", "show_grid")),
)
_GREY = Parameter("window", int, 0, "a grey level", *GREYS)
_OWN_TARGET = Parameter("target", int, -1, "class index; -1: the one that the map's model predicts", -1)


@dataclass(frozen=True)
class MethodChoice:
    """A method, its parameters (declared defaults where not given), and the library that computes it.

    ``model`` and ``target``, where given, take the place of the view's, so that two models or two classes stand side
    by side: a model's name, and a class index, or -1 for the class that this model predicts.
    """

    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    library: str = "xaiutils"
    model: str = ""
    target: int | None = None

    def check(self) -> "MethodChoice":
        """The same with all parameters that the library takes. Raises as `xaiutils.explain` does."""
        method = METHODS[self.method]
        if self.library not in method.libraries:
            raise ValueError(f"{self.method} is not offered by {self.library!r}; it is by {method.libraries}.")
        if self.target is not None:
            check_parameters(f"map by {self.method!r}", (_OWN_TARGET,), {"target": self.target})
        taken = taken_parameters(self.method, self.library)
        return replace(self, parameters=check_parameters(f"method {self.method!r}", taken, self.parameters))

    @property
    def title(self) -> str:
        title = METHODS[self.method].title
        return title if self.library == "xaiutils" else f"{title} ({self.library})"


def taken_parameters(method: str, library: str) -> tuple[Parameter, ...]:
    """The declared parameters that a library takes for a method."""
    declared = METHODS[method].parameters
    if library == "xaiutils":
        return declared
    return tuple(p for p in declared if p.name in ADAPTERS[library, method].parameters)


@dataclass(frozen=True)
class View:
    """What to compute, and how to draw it.

    Args:
        model: its name among the panel's models.
        image: position in the data set.
        target: class index; -1 for the class that is predicted for the untransformed image.
        transform, transform_parameters, seed: the change of the image, see `xaiutils.TRANSFORMS`.
        maps: one to three methods.
        dataset: its name among the panel's data sets; empty: the first.
        style: "overlay" (on the grey image), "contour" or "alone".
        palette: "standard", "earth" or "fire".
        opacity: of an overlay, 0..1.
        scale: "own" colour limits for each map, or "shared": maps of different methods share no unit, so shared
            limits suit one method with different parameters or layers.
        reading: "signed", "positive" or "magnitude" (`xaiutils.map_reading`), or "own": of each method the one that it
            declares. What is drawn, outlined, measured and deleted is what was read, as `xaiutils.evaluate` does.
        threshold, level, area: which pixels count as found, see `xaiutils.evaluation.thresholds.binary_map`.
        show_found, show_mask, show_grid: outlines of what is found and of the known evidence; the grid of patches.
        region: left, top, right, bottom in pixels, the right and bottom ends not included; None for none.
        zoom: the part of the pictures that is drawn, as a region is given; None for all of them. Numbers are of all.
        window: the grey levels that are drawn black and white. The model sees the image as it is.
    """

    model: str
    image: int
    target: int = -1
    transform: str = "original"
    transform_parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    maps: tuple[MethodChoice, ...] = (MethodChoice("grad_cam"),)
    dataset: str = ""
    style: str = "overlay"
    palette: str = "standard"
    opacity: float = 0.8
    scale: str = "own"
    threshold: str = "mean_std"
    level: float = 0.5
    area: float = 0.1
    show_found: bool = False
    show_mask: bool = True
    show_grid: bool = False
    region: Box | None = None
    reading: str = "own"
    zoom: Box | None = None
    window: tuple[int, int] = GREYS

    def check(self) -> "View":
        """The same with all parameters filled in. Raises UnknownNameError, TypeError or ValueError."""
        if not 1 <= len(self.maps) <= MOST_MAPS:
            raise ValueError(f"maps holds {len(self.maps)} methods; expected 1 to {MOST_MAPS}.")
        for name, known in (("style", STYLES), ("palette", PALETTES), ("scale", SCALES), ("reading", READ_AS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: {suggest(getattr(self, name), list(known))}")
        black, white = map(_GREY.check, self.window)
        if black >= white:
            raise ValueError(f"window {black}, {white}: expected two rising grey levels from {GREYS[0]} to {GREYS[1]}.")
        check_parameters("a view", _NUMBERS, {p.name: getattr(self, p.name) for p in _NUMBERS})
        check_parameters("a view", THRESHOLD, self.threshold_parameters)
        transform = TRANSFORMS[self.transform]
        given = check_parameters(f"transform {self.transform!r}", transform.parameters, self.transform_parameters)
        return replace(self, transform_parameters=given, maps=tuple(choice.check() for choice in self.maps))

    def reading_of(self, choice: MethodChoice) -> str:
        """How the map of one of the methods is read."""
        return METHODS[choice.method].own_reading(choice.parameters) if self.reading == "own" else self.reading

    @property
    def threshold_parameters(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "level": self.level, "area": self.area}

    def to_text(self) -> str:
        """What differs from a view's defaults, as JSON that `from_text` reads. Raises as `to_json`."""
        defaults = asdict(View("", -1))
        return json.dumps({k: v for k, v in asdict(self).items() if v != defaults[k]}, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> "View":
        """The view of `to_text`. Raises ValueError for a text that is none."""
        try:
            values = json.loads(text)
            defaults = asdict(View("", -1))
            return cls.from_json({**defaults, **values})
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"the view {text[:80]!r} cannot be read: {error}.") from error

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON. Raises TypeError for parameters that are arrays, which belong into no JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "View":
        """The view of `to_json`. Raises ValueError for entries that a view does not have."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"a view has no {', '.join(sorted(unknown))}; was it written by a later version?")
        values = {"reading": "signed", **values}  # as views were drawn before they held it
        pairs = {name: tuple(values[name]) for name in ("region", "zoom", "window") if values.get(name) is not None}
        return cls(**{**values, **pairs, "maps": tuple(MethodChoice(**choice) for choice in values["maps"])})


def clip_box(box: tuple[float, float, float, float], height: int, width: int) -> Box | None:
    """A drawn box: corners in any order and place, rounded and cut to the image; None where nothing is left."""
    columns = sorted(min(max(round(v), 0), width) for v in box[::2])
    rows = sorted(min(max(round(v), 0), height) for v in box[1::2])
    if columns[0] == columns[1] or rows[0] == rows[1]:
        return None
    return columns[0], rows[0], columns[1], rows[1]


def check_box(box: Sequence[Any], height: int, width: int, what: str = "region") -> Box:
    """Left, top, right, bottom as whole pixels of the image. Raises ValueError that says what is wrong with it."""
    given = f"{what} {', '.join(map(str, box))!r}"
    numbers = [float(v) for v in box if isinstance(v, Real) and not isinstance(v, bool)]
    if len(box) != 4 or len(numbers) != 4 or not all(abs(v) < _MOST for v in numbers):
        raise ValueError(f"{given}: expected four numbers: left, top, right, bottom, in pixels.")
    left, top, right, bottom = numbers
    if left >= right or top >= bottom:
        raise ValueError(f"{given} is empty: left must be below right, top below bottom.")
    if left < 0 or top < 0 or right > width or bottom > height:
        raise ValueError(f"{given} reaches beyond the image of {width} x {height} pixels, counted from 0.")
    if (found := clip_box((left, top, right, bottom), height, width)) is None:
        raise ValueError(f"{given} holds no whole pixel.")
    return found


def read_box(text: str, height: int, width: int) -> Box | None:
    """A typed "left, top, right, bottom"; None for an empty text. Raises ValueError that says what is expected."""
    if not text.strip():
        return None
    try:
        box = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        box = []
    if not box:
        raise ValueError(f"region {text!r}: expected four numbers: left, top, right, bottom, in pixels.")
    return check_box([int(v) if v.is_integer() else v for v in box], height, width)
