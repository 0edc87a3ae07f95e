"""Controls made from declarations: each parameter of a method or transform has the one that suits its type."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
import yaml

from xaiutils.registry import Parameter

Guard = Callable[[Callable[[Any], None]], Callable[[Any], None]]  # wraps a handler of events: errors are shown


class Quiet:
    """Within ``with quiet:`` the program changes controls; their handlers read ``quiet.on`` and do nothing."""

    def __init__(self) -> None:
        self._depth = 0

    @property
    def on(self) -> bool:
        return self._depth > 0

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *_error: object) -> None:
        self._depth -= 1


def labelled(description: str, tooltip: str = "", width: str = "auto", label_width: str = "72px") -> dict[str, Any]:
    """What all controls are given: a label, a help text, and a layout of their own."""
    in_a_row = {} if width == "auto" else {"margin": "2px 14px 2px 2px"}
    return {
        "description": description,
        "tooltip": tooltip,
        "style": {"description_width": label_width},
        "layout": widgets.Layout(width=width, **in_a_row),
    }


def dropdown(
    description: str, texts: Mapping[Any, str], tooltip: str = "", width: str = "auto", label_width: str = "72px"
) -> widgets.Dropdown:
    """A list to choose from; ``texts`` by value. The width "max-content" is that of the longest text."""
    return widgets.Dropdown(options=options(texts), **labelled(description, tooltip, width, label_width))


def options(texts: Mapping[Any, str]) -> list[tuple[str, Any]]:
    """The options of a dropdown; ``texts`` by value."""
    return [(text, value) for value, text in texts.items()]


def control(parameter: Parameter, layers: Sequence[str] = ()) -> widgets.Widget:
    """The control that suits a declared parameter; ``layers`` are offered where a layer is asked for."""
    common = labelled(parameter.name, parameter.help, label_width="104px")
    if parameter.choices and parameter.kind is str:
        return widgets.Dropdown(options=parameter.choices, value=parameter.default, **common)
    if parameter.kind is bool:
        return widgets.Checkbox(value=parameter.default, **common)
    if parameter.name == "layer":
        return widgets.Combobox(
            value=parameter.default,
            options=tuple(layers),
            placeholder="default",
            continuous_update=False,
            **common,
        )
    if parameter.kind in (list, dict):  # as YAML: [a, b] or {name: value}
        return widgets.Text(value=_as_yaml(parameter.default), continuous_update=False, **common)
    if parameter.kind is float:
        return _float_control(parameter, {"value": parameter.default, "continuous_update": False, **common})
    if parameter.kind is int:
        high = parameter.high if parameter.high is not None else 2**31 - 1
        return widgets.BoundedIntText(value=parameter.default, min=parameter.low or 0, max=int(high), **common)
    return widgets.Text(value=parameter.default, continuous_update=False, **common)


def _float_control(parameter: Parameter, common: dict[str, Any]) -> widgets.Widget:
    low, high = parameter.low, parameter.high
    if low is None or high is None:
        return widgets.FloatText(**common)
    if high > 1000 * max(parameter.default, 1e-9):  # no slider is that fine
        return widgets.BoundedFloatText(min=low, max=high, step=0.01, **common)
    step = (high - low) / 100
    digits = ".3f" if step < 0.01 else ".2f"
    return widgets.FloatSlider(min=low, max=high, step=step, readout_format=digits, **common)


def read_control(parameter: Parameter, widget: widgets.Widget) -> Any:
    """The value that the control of a parameter shows. Raises ValueError for a text that is no YAML."""
    if parameter.kind not in (list, dict):
        return widget.value
    try:
        return yaml.safe_load(widget.value)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: of dates that are none
        raise ValueError(
            f"{parameter.name}: {widget.value!r} cannot be read; expected {_EXAMPLES[parameter.kind]}."
        ) from None


def write_control(parameter: Parameter, widget: widgets.Widget, value: Any) -> None:
    """Make the control of a parameter show ``value``."""
    widget.value = _as_yaml(value) if parameter.kind in (list, dict) else value


_EXAMPLES = {list: "[a, b]", dict: "{name: value}"}


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).strip()


def check_shown(parameters: Sequence[Parameter], values: Mapping[str, Any]) -> None:
    """Raise ValueError for an array among ``values``: it has no control, and would be lost."""
    if lost := [p.name for p in parameters if p.kind is np.ndarray and values.get(p.name) is not None]:
        raise ValueError(f"{', '.join(lost)} is an array, which the panel has no control for: xaiutils.widgets.draw.")


class ParameterBox:
    """The controls of one method's or transform's parameters, in ``box``; ``changed`` is called on every change."""

    def __init__(self, changed: Callable[[Any], None]):
        self.box = widgets.VBox()
        self.controls: dict[str, widgets.Widget] = {}
        self._declared: dict[str, Parameter] = {}
        self._changed = changed

    def show(self, parameters: Sequence[Parameter], values: Mapping[str, Any], layers: Sequence[str] = ()) -> None:
        """Replace the controls. Raises as `check_shown`."""
        check_shown(parameters, values)
        old = self.controls
        self._declared = {p.name: p for p in parameters if p.kind is not np.ndarray}
        self.controls = {name: control(p, layers) for name, p in self._declared.items()}
        for name, widget in self.controls.items():
            if name in values:
                write_control(self._declared[name], widget, values[name])
            widget.observe(self._changed, names="value")
        self.box.children = tuple(self.controls.values())
        for widget in old.values():
            widget.close()

    def enable(self, names: Sequence[str]) -> None:
        """Switch off the controls of all other parameters: the chosen library does not take them."""
        for name, widget in self.controls.items():
            widget.disabled = name not in names

    def values(self) -> dict[str, Any]:
        """The values of the controls that are on."""
        return {
            name: read_control(self._declared[name], widget)
            for name, widget in self.controls.items()
            if not widget.disabled
        }
