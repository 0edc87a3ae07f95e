"""The line that says what the panel does, with a button that stops it and a bar of progress."""

import ipywidgets as widgets

from xaiutils.text import html
from xaiutils.widgets.background_worker import Progress


class StatusLine:
    """The line, in ``box``; ``state`` is "done", "computing", "stopped" or "error", ``text`` begins with it."""

    def __init__(self) -> None:
        self.state, self.text = "done", ""
        self.stop = widgets.Button(
            description="Stop", disabled=True, tooltip="stop computing", layout=widgets.Layout(width="70px")
        )
        self.line = widgets.HTML(layout=widgets.Layout(flex="1 1 auto"))
        self._bar = widgets.FloatProgress(min=0, max=1, layout=widgets.Layout(width="100px", visibility="hidden"))
        self.box = widgets.HBox([self.stop, self.line, self._bar], layout=widgets.Layout(align_items="center"))

    def say(self, state: str, text: str) -> None:
        """Show a text."""
        self.state, self.text = state, text
        self.line.value = (
            f'<div class="xai-status" role="status" aria-live="polite" data-state="{state}">{html(text)}</div>'
        )

    def busy(self, doing: str) -> None:
        """Say what is begun, unless something is under way."""
        self.stop.disabled = False
        if self.state != "computing":
            self.say("computing", f"{doing} ...")

    def progress(self, doing: str, progress: Progress) -> None:
        """Show how far it is."""
        self._bar.layout.visibility = "visible"
        self._bar.value = progress.done / progress.total
        left = "" if progress.remaining is None else f", about {max(progress.remaining, 1):.0f} s left"
        self.say("computing", f"{doing}: {progress.done} of {progress.total} steps{left}")

    def rest(self) -> None:
        """Nothing is left to stop."""
        self.stop.disabled = True
        self._bar.layout.visibility = "hidden"
        self._bar.value = 0
