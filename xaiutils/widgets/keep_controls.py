"""The controls of what is kept of the panel: pinned findings, and pictures for print."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from xaiutils.files import replace_file
from xaiutils.widgets.compute_scene import SceneComputer
from xaiutils.widgets.parameter_controls import Guard, labelled
from xaiutils.widgets.pinned_views import Board, Finding, PinnedCards, claim_name
from xaiutils.widgets.scene import Scene
from xaiutils.widgets.scene_drawing import PRINT_DPI, draw_scene
from xaiutils.widgets.view_settings import View


class KeepControls:
    """A note, the buttons that keep a view, and the newest findings, in ``row`` and ``cards``.

    Args:
        folder: the run's folder, or None: nothing can be kept.
        context: more facts for the records of findings.
        computer: of the scenes.
        drawn: returns the scene on show. Raises ValueError where it is not of the controls.
        do: has a function called behind the panel; what it returns is said in the status line.
        show_again: called with the view of a finding whose button is pressed.
        guard: wraps the handlers of events.
    """

    def __init__(
        self,
        folder: Path | None,
        context: Mapping[str, Any] | None,
        computer: SceneComputer,
        drawn: Callable[[], Scene],
        do: Callable[[Callable[[], str]], None],
        show_again: Callable[[View], None],
        guard: Guard,
    ):
        self._folder, self._computer, self._drawn, self._do = folder, computer, drawn, do
        self.board = None if folder is None else Board(folder / "findings", context)
        self.cards = PinnedCards(show_again, guard)
        note = labelled("note", "goes with the view that is pinned", label_width="46px")
        self.note = widgets.Text(placeholder="what you see here", **note)
        self.pin_button = widgets.Button(description="Pin", tooltip="keep this view in the run's folder")
        self.save_button = widgets.Button(description="Save for print", tooltip="PNG of 300 dpi and PDF")
        self.pin_button.on_click(guard(lambda _: self._ask_pin()))
        self.save_button.on_click(guard(lambda _: self._do(self._save)))
        if folder is None:
            self.pin_button.disabled = self.save_button.disabled = self.note.disabled = True
            self.pin_button.tooltip = self.save_button.tooltip = "this panel was made without a run's folder"
        for button in (self.pin_button, self.save_button):
            button.layout = widgets.Layout(width="auto", flex="1 1 0")
        self.row = widgets.VBox([self.note, widgets.HBox([self.pin_button, self.save_button])])
        self._show_cards()

    def pin(self, name: str = "", note: str = "") -> Finding:
        """As `xaiutils.widgets.Explorer.pin`."""
        if self.board is None:
            raise ValueError("the panel was made without folder=, so nothing can be kept.")
        finding = self.board.pin(self._drawn(), self._computer, name, note)
        self._show_cards()
        return finding

    def save(self) -> list[Path]:
        """As `xaiutils.widgets.Explorer.save`."""
        if self._folder is None:
            raise ValueError("the panel was made without folder=, so nothing can be saved.")
        figure = draw_scene(self._drawn()).figure
        figures = self._folder / "figures"
        stem = claim_name(figures, "explorer")
        return [
            replace_file(figures / f"{stem}.{kind}", lambda temporary: figure.savefig(temporary, dpi=PRINT_DPI))
            for kind in ("png", "pdf")
        ]

    def _ask_pin(self) -> None:
        note = self.note.value

        def pin() -> str:
            finding = self.pin(note=note)
            self.note.value = ""
            return f"pinned as {finding.name} in {finding.record.parent}"

        self._do(pin)

    def _save(self) -> str:
        paths = self.save()
        return f"saved {' and '.join(p.name for p in paths)} in {paths[0].parent}"

    def _show_cards(self) -> None:
        if self.board is not None:
            self.cards.show(self.board.findings())
