"""The controls of one map: its method, the library that computes it, and the parameters that the method declares."""

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from xaiutils.attribution import METHODS
from xaiutils.text import html
from xaiutils.widgets.parameter_controls import Guard, ParameterBox, Quiet, dropdown, options
from xaiutils.widgets.view_settings import MethodChoice, taken_parameters


class MapControls:
    """The controls of a map, in ``box``.

    Args:
        number: of the map, from 1; all but the first may be "none".
        changed: called when the user changes a control.
        guard: wraps the handlers of events.
        quiet: while it is on, changes are the program's own.
        defaults: parameters by method's name, which take the place of the declared defaults.
    """

    def __init__(
        self,
        number: int,
        changed: Callable[[], None],
        guard: Guard,
        quiet: Quiet,
        defaults: Mapping[str, Mapping[str, Any]],
    ):
        self._changed, self._quiet, self._defaults = changed, quiet, defaults
        self._layers: tuple[str, ...] = ()
        self._optional = number > 1
        self._unsuited: Mapping[str, str] = {}
        self.method = dropdown(f"map {number}", self._methods(), "attribution method", label_width="46px")
        self.library = dropdown("by", {}, "the library that computes it", label_width="46px")
        self.cost = widgets.HTML()
        self.parameters = ParameterBox(guard(lambda _: None if quiet.on else changed()))
        self.box = widgets.VBox([self.method, self.library, self.parameters.box, self.cost])
        self.box.add_class("xai-column")
        self.set(None)
        self.method.observe(guard(self._method_changed), names="value")
        self.library.observe(guard(self._library_changed), names="value")

    @property
    def choice(self) -> MethodChoice | None:
        """What the controls say; None for no map."""
        if not self.method.value:
            return None
        return MethodChoice(self.method.value, self.parameters.values(), self.library.value)

    def set(self, choice: MethodChoice | None) -> None:
        """Show a choice without calling ``changed``."""
        with self._quiet:
            if choice is not None or self._optional:
                self._offer("" if choice is None else choice.method)
            choice = choice or MethodChoice(self.method.value)
            self._fill(choice.method, choice.parameters, choice.library)

    def _methods(self, chosen: str = "") -> dict[str, str]:
        """The methods that are offered, by name; one that is chosen stays, with the reason why it does not suit."""
        titles = {name: entry.title for name, entry in METHODS.items() if name not in self._unsuited}
        titles |= {chosen: f"{METHODS[chosen].title} (does not suit)"} if chosen in self._unsuited else {}
        return ({"": "none"} if self._optional else {}) | titles

    def offer_methods(self, unsuited: Mapping[str, str]) -> None:
        """Offer the methods that suit the model; ``unsuited`` are the others, and why."""
        if unsuited != self._unsuited:
            self._unsuited = unsuited
            with self._quiet:
                self._offer(self.method.value)
                self.cost.value = _about(self.method.value, unsuited) if self.method.value else ""

    def _offer(self, chosen: str) -> None:
        self.method.options = options(self._methods(chosen))
        self.method.value = chosen

    def offer_layers(self, layers: tuple[str, ...]) -> None:
        """Suggest these names where a layer is asked for."""
        self._layers = layers
        if "layer" in self.parameters.controls and self.parameters.controls["layer"].options != layers:
            self.parameters.controls["layer"].options = layers

    def _fill(self, name: str, values: Mapping[str, Any], library: str) -> None:
        libraries = METHODS[name].libraries if name else ("xaiutils",)
        self.library.options = libraries
        self.library.value = library
        self.library.layout.display = "" if len(libraries) > 1 else "none"
        self.parameters.show(METHODS[name].parameters if name else (), values, self._layers)
        self._enable()
        self.cost.value = _about(name, self._unsuited) if name else ""

    def _enable(self) -> None:
        if self.method.value:
            self.parameters.enable([p.name for p in taken_parameters(self.method.value, self.library.value)])

    def _method_changed(self, change: Mapping[str, Any]) -> None:
        if not self._quiet.on:
            with self._quiet:
                self._fill(change["new"], self._defaults.get(change["new"], {}), "xaiutils")
            self._changed()

    def _library_changed(self, _change: Any) -> None:
        if not self._quiet.on:
            self._enable()
            self._changed()


def _about(method: str, unsuited: Mapping[str, str]) -> str:
    entry = METHODS[method]
    only = {"vit": " For transformers only.", "cnn": " For CNNs only."}.get("+".join(entry.suits), "")
    why = f" Does not suit this model: {unsuited[method]}" if method in unsuited else ""
    said = f'<div class="xai-cost">{html(f"Cost: {entry.cost}.{only}{why} {entry.paper}")}'
    if unsuited:
        reasons = html("\n".join(f"{METHODS[name].title}: {reason}" for name, reason in unsuited.items()))
        said += f'<br><span title="{reasons}">{len(unsuited)} methods do not suit this model and are left out</span>'
    return f"{said}</div>"
