"""A page with the panel as a test sees it, in JupyterLab or served by voila. Screenshots go to ``runs/browser``."""

import re
import time
from collections.abc import Callable
from typing import Any

from servers import TOKEN, Server

from xaiutils.workbook.run_all import ROOT

SHOTS = ROOT / "runs" / "browser"
STATUS = ".xai-status"
LONG = 90_000  # milliseconds


class Page:
    """A page with the panel; all that it fetches, and what goes wrong on it, is written down."""

    def __init__(self, browser, width: int, height: int):
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.page.set_default_timeout(20_000)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open_notebook(self, lab: Server, cells: int = 10) -> None:
        self.page.goto(f"{lab.url}/lab/tree/explorer.ipynb?token={TOKEN}&reset", wait_until="domcontentloaded")
        self.page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=LONG)
        ready = "n => document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell').length >= n"
        self.page.wait_for_function(ready, arg=cells, timeout=LONG)
        self.idle()
        self.page.locator(
            ".jp-SideBar .lm-mod-current"
        ).first.click()  # the file browser, which takes a quarter of the width

    def idle(self) -> None:
        idle = "document.querySelector('#jp-main-statusbar')?.innerText.includes('| Idle')"
        self.page.wait_for_function(idle, timeout=LONG)

    def run_all(self) -> None:
        self.menu("Run", "Run All Cells")
        self.page.wait_for_selector(STATUS, timeout=LONG)
        self.page.wait_for_function(f"document.querySelector('{STATUS}').innerText.startsWith('done')", timeout=LONG)
        self.idle()
        assert self.page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
        self.page.locator(".xai-panel").scroll_into_view_if_needed()
        self.page.wait_for_timeout(600)  # the panel tells its width, and is redrawn

    def menu(self, name: str, entry: str) -> None:
        self.page.get_by_role("menuitem", name=name, exact=True).click()
        self.page.locator(".lm-Menu-itemLabel", has_text=re.compile(rf"^{re.escape(entry)}")).first.click()

    @property
    def status(self) -> str:
        return self.page.locator(STATUS).inner_text()

    @property
    def source(self) -> str:
        return self.page.locator(".xai-panel .widget-image").first.get_attribute("src")

    def picture(self) -> int:
        """A hash (FNV-1a) of the picture's file."""
        return self.page.evaluate(
            """async (source) => {
                let hash = 2166136261;
                for (const byte of new Uint8Array(await (await fetch(source)).arrayBuffer()))
                    hash = Math.imul(hash ^ byte, 16777619);
                return hash;
            }""",
            self.source,
        )

    def redrawn(self, do: Callable[[], Any], state: str = "done", says: str = "") -> float:
        """Do something, wait for a new picture and a status that ``says`` so; returns the seconds that it took."""
        before, start = self.source, time.monotonic()
        do()
        self.page.wait_for_function(
            f"""([old, state, says]) => document.querySelector('.xai-panel .widget-image').src !== old
                && document.querySelector('{STATUS}').dataset.state === state
                && document.querySelector('{STATUS}').innerText.includes(says)""",
            arg=[before, state, says],
        )
        return time.monotonic() - start

    def said(self, state: str) -> None:
        self.page.wait_for_selector(f"{STATUS}[data-state={state}]")

    def number(self, quantity: str, column: int = 1) -> str:
        cell = self.page.locator(f".xai-numbers td.{quantity}").nth(column - 1)
        return cell.inner_text().split(" (")[0]

    def choose(self, label: str, option: str) -> None:
        self.page.get_by_label(label, exact=True).select_option(label=option)

    def choose_method(self, field: str, typed: str) -> None:
        """Search a method in a map's list, and take the one that is marked."""
        self.page.get_by_label(field, exact=True).fill(typed)
        self.page.keyboard.press("Enter")

    def slider(self, name: str):
        return self.page.locator(".widget-slider", has=self.page.get_by_text(name, exact=True))

    def pull(self, handle: Any, by: float) -> None:
        """Pull a slider's handle with the mouse, by so many pixels."""
        handle.scroll_into_view_if_needed()
        area = handle.bounding_box()
        x, y = area["x"] + area["width"] / 2, area["y"] + area["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + by, y, steps=6)
        self.page.mouse.up()

    def drag(self, frame: int, box: tuple[float, float, float, float]) -> None:
        """Draw a box on an image of the picture: left, top, right, bottom as fractions of that image."""
        image = self.page.locator(".xai-layer > div").nth(frame)
        image.scroll_into_view_if_needed()
        area = image.bounding_box()
        x = [area["x"] + area["width"] * part for part in box[::2]]
        y = [area["y"] + area["height"] * part for part in box[1::2]]
        self.page.mouse.move(x[0], y[0])
        self.page.mouse.down()
        self.page.mouse.move((x[0] + x[1]) / 2, (y[0] + y[1]) / 2, steps=4)
        self.page.mouse.move(x[1], y[1], steps=4)
        self.page.mouse.up()

    def zoom(self, frame: int, at: tuple[float, float]) -> None:
        """Turn the wheel with Ctrl at a place of an image, in fractions of it."""
        area = self.page.locator(".xai-layer > div").nth(frame).bounding_box()
        self.page.mouse.move(area["x"] + area["width"] * at[0], area["y"] + area["height"] * at[1])
        self.page.keyboard.down("Control")
        self.page.mouse.wheel(0, -200)
        self.page.keyboard.up("Control")

    def shot(self, name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png")

    def panel_shot(self, name: str) -> None:
        """The whole panel, in a window as tall as it needs."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        panel, size = self.page.locator(".xai-panel"), self.page.viewport_size
        self.page.set_viewport_size({**size, "height": int(panel.bounding_box()["height"]) + 200})
        panel.scroll_into_view_if_needed()
        panel.screenshot(path=SHOTS / f"{name}.png")
        self.page.set_viewport_size(size)
        self.page.wait_for_timeout(600)  # a scroll bar that comes or goes changes the width
