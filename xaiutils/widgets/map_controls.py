"""The controls of one map: its method, whose answer it explains, the library that computes it, and the parameters that
the method declares."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets

from xaiutils.attribution import METHODS
from xaiutils.attribution.method import FAMILY_TITLES
from xaiutils.attribution.method_notes import PITFALLS, formula
from xaiutils.text import html
from xaiutils.widgets.browser_widgets import MethodPicker
from xaiutils.widgets.parameter_controls import Guard, ParameterBox, Quiet, dropdown, options
from xaiutils.widgets.view_settings import MethodChoice, taken_parameters

_AS_VIEW = -2  # the class that the view explains


@dataclass(frozen=True)
class MapOffers:
    """What the controls of a map ask for: ``changed`` is called when the user changes one, ``guard`` wraps the handlers
    of events, while ``quiet`` is on changes are the program's own; ``defaults``: parameters by method's name, which
    take the place of the declared ones; ``models``: their names; ``class_names`` of one of them (empty: the view's);
    ``first``: the choice of the first map, which a map without a method takes when it is given a model or a class."""

    changed: Callable[[], None]
    guard: Guard
    quiet: Quiet
    defaults: Mapping[str, Mapping[str, Any]]
    models: Sequence[str]
    class_names: Callable[[str], Sequence[str]]
    first: Callable[[], MethodChoice | None]


class MapControls:
    """The controls of a map, in ``box``. ``number``: of the map, from 1; all but the first may be "none"."""

    def __init__(self, number: int, offers: MapOffers):
        self._offers = offers
        self._layers: tuple[str, ...] = ()
        self._unsuited: Mapping[str, str] = {}
        self.method = MethodPicker(label=f"map {number}", optional=number > 1, methods=_catalogue())
        plain = {"width": "auto", "label_width": "0"}
        models = {"": "same model", **{name: name for name in offers.models}}
        self.model = dropdown("", models, f"the model of map {number}", **plain)
        self.model.layout.display = "" if len(offers.models) > 1 else "none"
        self.target = dropdown("", {_AS_VIEW: "same class"}, f"the class that map {number} explains", **plain)
        own = widgets.HBox([self.model, self.target])
        own.add_class("xai-own")
        self.library = dropdown("by", {}, "the library that computes it", label_width="46px")
        self.cost = widgets.HTML()
        guard = offers.guard
        self.parameters = ParameterBox(guard(lambda _: None if offers.quiet.on else offers.changed()))
        self.box = widgets.VBox([self.method, own, self.library, self.parameters.box, self.cost])
        self.box.add_class("xai-column")
        self.set(None)
        self.method.observe(guard(self._method_changed), names="value")
        self.model.observe(guard(self._own_changed), names="value")
        self.target.observe(guard(self._own_changed), names="value")
        self.library.observe(guard(self._library_changed), names="value")

    @property
    def choice(self) -> MethodChoice | None:
        """What the controls say; None for no map."""
        if not self.method.value:
            return None
        target = None if self.target.value == _AS_VIEW else self.target.value
        return MethodChoice(
            self.method.value, self.parameters.values(), self.library.value, self.model.value or "", target
        )

    def set(self, choice: MethodChoice | None) -> None:
        """Show a choice without calling ``changed``."""
        with self._offers.quiet:
            if choice is None and not self.method.optional and self.method.value == "":
                choice = MethodChoice(next(iter(METHODS)))
            if choice is None and not self.method.optional:
                return
            self.method.value = "" if choice is None else choice.method
            self.model.value = "" if choice is None else choice.model
            self.offer_classes()
            self.target.value = _AS_VIEW if choice is None or choice.target is None else choice.target
            self._fill(choice or MethodChoice(""))

    def offer_methods(self, unsuited: Mapping[str, str]) -> None:
        """Show which methods do not suit the map's model, and why."""
        if unsuited != self._unsuited:
            self._unsuited = self.method.unsuited = dict(unsuited)
            self.cost.value = _about(self.method.value, unsuited)

    def offer_classes(self) -> None:
        """Offer the classes of the map's model."""
        names = self._offers.class_names(self.model.value)
        texts = {_AS_VIEW: "same class", -1: "what it predicts", **{i: str(name) for i, name in enumerate(names)}}
        if list(self.target.options) != options(texts):
            with self._offers.quiet:
                self.target.options = options(texts)
                self.target.value = _AS_VIEW

    def offer_layers(self, layers: tuple[str, ...]) -> None:
        """Suggest these names where a layer is asked for."""
        self._layers = layers
        if "layer" in self.parameters.controls and self.parameters.controls["layer"].options != layers:
            self.parameters.controls["layer"].options = layers

    def _fill(self, choice: MethodChoice) -> None:
        name = choice.method
        libraries = METHODS[name].libraries if name else ("xaiutils",)
        self.library.options = libraries
        self.library.value = choice.library
        self.library.layout.display = "" if len(libraries) > 1 else "none"
        self.parameters.show(METHODS[name].parameters if name else (), choice.parameters, self._layers)
        self._enable()
        self.cost.value = _about(name, self._unsuited)

    def _enable(self) -> None:
        if self.method.value:
            self.parameters.enable([p.name for p in taken_parameters(self.method.value, self.library.value)])

    def _method_changed(self, change: Mapping[str, Any]) -> None:
        if not self._offers.quiet.on:
            with self._offers.quiet:
                self._fill(MethodChoice(change["new"], self._offers.defaults.get(change["new"], {})))
            self._offers.changed()

    def _own_changed(self, _change: Any) -> None:
        if self._offers.quiet.on:
            return
        self.offer_classes()
        if not self.method.value and (first := self._offers.first()) is not None:
            with self._offers.quiet:
                self.method.value = first.method
                self._fill(first)
        self._offers.changed()

    def _library_changed(self, _change: Any) -> None:
        if not self._offers.quiet.on:
            self._enable()
            self._offers.changed()


def _about(method: str, unsuited: Mapping[str, str]) -> str:
    """The line below the parameters."""
    if not method:
        return ""
    why = f" <b>Does not suit this model: {html(unsuited[method])}</b>" if method in unsuited else ""
    return f'<div class="xai-cost">{html(f"Cost: {METHODS[method].cost}.")}{why}</div>'


def _catalogue() -> list[dict[str, str]]:
    """All methods by family, with what the list says of each."""
    rows = []
    for family in dict.fromkeys(entry.family for entry in METHODS.values()):
        for name, entry in METHODS.items():
            if entry.family == family:
                about = [f"<p><b>{html(entry.title)}</b> ({html(name)})</p>"]
                about += [f"<p>{_linked(text)}</p>" for text in formula(entry)]
                about += [f"<p><b>Watch for</b> {_linked(PITFALLS[name])}</p>"] if name in PITFALLS else []
                about += [f"<p><b>Cost</b> {html(entry.cost)}. <b>Reference</b> {_linked(entry.paper)}</p>"]
                said = FAMILY_TITLES.get(family, family.capitalize())
                rows.append({"name": name, "title": entry.title, "family": said, "about": "".join(about)})
    return rows


def _linked(text: str) -> str:
    """A docstring's text as HTML, with its code and its links."""
    link = r'<a href="https://arxiv.org/abs/\1" target="_blank" rel="noopener">arXiv:\1</a>'
    code = re.sub(r"``?([^`]+)``?", r"<code>\1</code>", html(text))
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", link, code)
