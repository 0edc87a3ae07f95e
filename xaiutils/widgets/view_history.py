"""The views that were drawn, to go back and forth among them."""

import time
from dataclasses import fields

from xaiutils.widgets.view_settings import View

_MOST = 100  # views
_AT_ONCE = 1.5  # seconds within which changes of the same settings are one: a slider that is pulled


class ViewHistory:
    """Views in the order in which they were drawn, and where in it the present one stands."""

    def __init__(self) -> None:
        self._views: list[View] = []
        self._at, self._changed, self._time = -1, frozenset[str](), 0.0

    def add(self, view: View) -> None:
        """A view was drawn; what was undone before it is forgotten."""
        if self._views and view == self._views[self._at]:
            return
        now, changed = time.monotonic(), self._differences(view)
        pulled = changed == self._changed and "image" not in changed  # each picture that was looked at is one
        again = pulled and now - self._time < _AT_ONCE and self._at > 0
        del self._views[self._at + (0 if again else 1) :]
        self._views = [*self._views, view][-_MOST:]
        self._at, self._changed, self._time = len(self._views) - 1, changed, now

    def _differences(self, view: View) -> frozenset[str]:
        if not self._views:
            return frozenset()
        last = self._views[self._at]
        return frozenset(f.name for f in fields(View) if getattr(view, f.name) != getattr(last, f.name))

    def can(self, by: int) -> bool:
        """Whether there is a view that many steps on; negative: back."""
        return 0 <= self._at + by < len(self._views)

    def go(self, by: int) -> View:
        """The view that many steps on, which is the present one from now on. Raises ValueError where there is none."""
        if not self.can(by):
            raise ValueError("there is no other view to go to.")
        self._at, self._changed = self._at + by, frozenset()
        return self._views[self._at]
