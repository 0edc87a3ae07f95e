"""The panel in a real browser, in JupyterLab and as a page: what a person does, and what must follow."""

import re
import shutil
import time

import numpy as np
import pytest
from kernels import kernels_of
from panel_page import LONG, STATUS, Page
from servers import TOKEN, app_server, lab_server, tiny_run

import xaiutils as xai

pytestmark = pytest.mark.timeout(240)
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
)


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium; the tests are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium (Debian: apt install chromium)")
    with playwright.sync_playwright() as p:
        launched = p.chromium.launch(executable_path=path, headless=True, args=_FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def run(browser, tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def lab(browser, run, kernel_server, tmp_path_factory):
    with lab_server(tmp_path_factory.mktemp("lab"), run, kernel_server) as server:
        yield server


@pytest.fixture(scope="module")
def page_of_app(browser, run, tmp_path_factory):
    with app_server(tmp_path_factory.mktemp("app"), run) as server:
        yield server


@pytest.fixture
def open_page(browser):
    opened = []

    def make(width: int = 1280, height: int = 900) -> Page:
        opened.append(Page(browser, width, height))
        return opened[-1]

    yield make
    for made in opened:
        made.page.close()


# What must follow, computed here -----------------------------------------------------------------------------------


def expected(run, model: str, image: int, transform: str, method: str, **parameters) -> dict[str, str]:
    """The numbers that the panel must show, from the package's own calls."""
    ds, network = run.dataset("test").select([image]), run.model(model)
    changed = xai.TRANSFORMS[transform].apply(ds.images)
    target = int(xai.predict(network, ds.images)[0].argmax())
    maps = xai.explain(network, changed, target, method, **parameters)
    ds = xai.ImageDataset(
        changed.astype(np.uint8), ds.labels, ds.class_names, ds.ids, xai.TRANSFORMS[transform].apply_to_masks(ds.masks)
    )
    table = xai.evaluate(None, ds, maps, ["iou", "relevance_mass"], method=method, method_parameters=parameters)
    table = table.set_index("metric").value
    return {name: "undefined" if np.isnan(value) else f"{value:.2f}" for name, value in table.items()}


def shown(page: Page, column: int = 1) -> dict[str, str]:
    return {name: page.number(name, column) for name in ("iou", "relevance_mass")}


def settles(read, value, seconds: float = 20) -> None:
    """``read()`` must become ``value``: pages that are redrawn for another reason show the old one for a moment."""
    deadline = time.monotonic() + seconds
    while read() != value and time.monotonic() < deadline:
        time.sleep(0.05)
    assert read() == value


def clear_image(page: Page) -> int:
    return int(page.page.get_by_label("image", exact=True).input_value())


def test_jupyterlab(lab, run, open_page):
    """The whole notebook, and every kind of control, with the mouse and the keyboard."""
    page = open_page()
    lab.settings("apputils-extension/kernels-settings", {})
    page.open_notebook(lab)
    page.run_all()
    assert page.page.locator(".xai-panel").count() == 1
    page.shot("lab_1280")
    keys, image = page.page.keyboard, clear_image(page)
    settles(lambda: shown(page), expected(run, "efficientnet_lite0", image, "original", "grad_cam"))

    # The method, by keyboard: what is typed filters the list.
    page.page.get_by_label("map 1", exact=True).focus()
    keys.type("Gradients x")
    page.redrawn(lambda: keys.press("Enter"), says=": gradients_x_inputs of")
    settles(lambda: shown(page), expected(run, "efficientnet_lite0", image, "original", "gradients_x_inputs"))

    # The transform, by mouse and by keyboard.
    page.redrawn(lambda: page.choose("transform", "Rotation by 180°"))
    settles(lambda: shown(page), expected(run, "efficientnet_lite0", image, "rotate_180", "gradients_x_inputs"))
    transform = page.page.get_by_label("transform", exact=True)
    transform.focus()
    page.redrawn(lambda: keys.press("Home"), says=", original ")
    settles(lambda: shown(page), expected(run, "efficientnet_lite0", image, "original", "gradients_x_inputs"))

    # A slider of the drawing: another picture, the same numbers. By keyboard and by mouse.
    numbers, picture = shown(page), page.picture()
    opacity = page.slider("opacity")
    opacity.locator(".noUi-handle").focus()
    times = [page.redrawn(lambda: keys.press("ArrowLeft")) for _ in range(5)]
    assert opacity.locator(".widget-readout").inner_text() == "0.75"
    assert page.picture() != picture
    assert np.median(times) < 1.0  # far below where nothing else runs on the machine
    page.redrawn(lambda: page.pull(opacity.locator(".noUi-handle"), -60))
    assert float(opacity.locator(".widget-readout").inner_text()) < 0.5
    settles(lambda: shown(page), numbers)

    # A second map, a parameter's slider, and the correlation between the two.
    page.redrawn(lambda: page.choose_method("map 2", "SmoothGrad"))
    assert page.number("correlation_2", 1) == page.number("correlation_1", 2) != ""
    before = shown(page, 2)
    noise = page.slider("noise")
    noise.locator(".noUi-handle").focus()
    page.redrawn(lambda: keys.press("End"))
    settles(lambda: shown(page, 2), expected(run, "efficientnet_lite0", image, "original", "smoothgrad", noise=1.0))
    settles(lambda: shown(page, 1), numbers)
    assert before == expected(run, "efficientnet_lite0", image, "original", "smoothgrad")

    # A region, with the mouse and typed.
    page.redrawn(lambda: page.drag(1, (0.25, 0.25, 0.75, 0.5)))
    region = page.page.get_by_label("region", exact=True)
    box = [int(part) for part in region.input_value().split(",")]
    np.testing.assert_allclose(box, [16, 16, 48, 32], atol=1)
    assert page.page.locator(".xai-layer > div > div").count() == 3  # on the image and both maps
    maps = xai.explain(
        run.model("efficientnet_lite0"), run.dataset("test").select([image]).images, None, "smoothgrad", noise=1.0
    )
    inside = maps[0][box[1] : box[3], box[0] : box[2]].sum() / maps[0].sum()
    settles(lambda: page.number("region_positive", 2), f"{inside:.1%}")
    page.panel_shot("lab_region")
    region.fill("0, 0, 64, 64")
    page.redrawn(lambda: region.press("Enter"))
    settles(lambda: page.number("region_positive", 2), "100.0%")
    region.fill("1, 2, 3")
    region.press("Enter")
    page.said("error")
    assert "expected four numbers" in page.status
    page.redrawn(lambda: page.page.get_by_role("button", name="Clear", exact=True).click())
    settles(page.page.locator("td.region_positive").count, 0)

    # A method that a model cannot have is pale in the list, with the reason, and an error in words where the model is
    # changed under it; the other map stays.
    page.page.get_by_label("map 2", exact=True).fill("raw attention")
    assert page.page.locator(".xai-methods [role=option]:visible").get_attribute("aria-disabled") == "true"
    assert "Does not suit this model" in page.page.locator(".xai-about:visible").inner_text()
    keys.press("Escape")
    page.redrawn(lambda: page.choose("model", "vit_mini16"))
    page.redrawn(lambda: page.choose_method("map 2", "Raw attention"))
    page.redrawn(lambda: page.choose("model", "efficientnet_lite0"), state="error")
    assert "error in map 2 (Raw attention" in page.status
    page.redrawn(lambda: page.choose("model", "vit_mini16"))
    page.page.get_by_label("grid", exact=True).focus()
    page.redrawn(lambda: keys.press("Space"))
    page.panel_shot("lab_vit")

    # Thumbnails: an answer filter asks the model about all images; the arrow keys and Enter choose.
    page.page.get_by_title("the model's answer").select_option(label="answered wrong")
    page.page.wait_for_selector(".xai-thumbnails [data-mark=wrong]")
    wrong = np.flatnonzero(
        xai.predict(run.model("vit_mini16"), run.dataset("test").images).argmax(axis=1) != run.dataset("test").labels
    )
    assert page.page.locator(".xai-thumbnails button").count() == min(12, len(wrong))
    page.page.locator(".xai-thumbnails button").first.focus()
    keys.press("ArrowRight")
    page.redrawn(lambda: keys.press("Enter"))
    assert clear_image(page) == wrong[1]

    # A finding is kept, and shown again.
    pins = run.folder / "findings"
    kept = len(list(pins.glob("*.json")))
    page.page.get_by_label("note", exact=True).fill("wrong for a reason?")
    page.page.get_by_role("button", name="Pin", exact=True).click()
    page.page.wait_for_function(f"document.querySelector('{STATUS}').innerText.includes('pinned as')")
    assert len(list(pins.glob("*.json"))) == kept + 1
    picture = page.picture()
    page.redrawn(lambda: page.choose("colours", "fire"))
    page.redrawn(lambda: page.page.get_by_role("button", name="Show again").first.click())
    settles(page.picture, picture)
    page.page.set_viewport_size({"width": 1920, "height": 1080})
    page.page.wait_for_timeout(1500)
    page.shot("lab_1920")
    assert page.errors == []


def test_stop_during_occlusion_and_a_second_run(lab, run, open_page):
    """With callbacks in the kernel's main thread, and after the kernel was restarted."""
    page = open_page()
    lab.settings("apputils-extension/kernels-settings", {"commsOverSubshells": "disabled"})
    page.open_notebook(lab)
    page.run_all()
    page.redrawn(lambda: page.choose("model", "vit_mini16"))
    page.redrawn(lambda: page.choose_method("map 1", "Occlusion"), says=": occlusion of")
    before, size = page.source, page.page.get_by_label("patch_size", exact=True)
    patch = size.input_value()
    size.fill("1")
    size.press("Enter")
    page.page.wait_for_function(f"document.querySelector('{STATUS}').innerText.includes('left')")
    start = time.monotonic()
    page.page.get_by_role("button", name="Stop", exact=True).click()
    page.said("stopped")
    assert time.monotonic() - start < 10  # 0.1 s where nothing else runs on the machine
    assert page.source == before
    assert page.page.locator(".xai-panel .widget-gridbox").evaluate("e => +getComputedStyle(e).opacity") == 1
    assert page.page.get_by_label("patch_size", exact=True).input_value() == patch
    page.shot("lab_stop")
    page.redrawn(lambda: page.choose_method("map 1", "Grad-CAM"))
    assert shown(page)["iou"] != ""

    page.menu("Kernel", "Restart Kernel and Run All Cells")
    page.page.locator(".jp-Dialog .jp-mod-accept").click()
    page.page.wait_for_selector(".xai-panel", state="detached", timeout=LONG)
    page.page.wait_for_selector(STATUS, timeout=LONG)
    page.said("done")
    page.idle()
    assert page.page.locator(".xai-panel").count() == 1
    image = clear_image(page)
    settles(lambda: shown(page), expected(run, "efficientnet_lite0", image, "original", "grad_cam"))
    page.redrawn(lambda: page.choose_method("map 1", "LayerCAM"))
    assert page.errors == []


def test_app(page_of_app, run, open_page):
    """The page of ``make app``: the panel without code, and nothing fetched from elsewhere."""
    page = open_page()
    page.page.goto(f"{page_of_app.url}/?token={TOKEN}", timeout=LONG)
    page.page.wait_for_selector(STATUS, timeout=LONG)
    page.said("done")
    page.page.wait_for_timeout(1000)
    assert page.page.locator(".jp-CodeMirrorEditor, .cm-editor").count() == 0
    assert "Error" not in page.page.locator("body").inner_text()
    assert page.page.get_by_role("heading", name="Attribution explorer: run default").count() == 1
    count = page.page.get_by_text(re.compile(r"^1-12 of 30$"))
    assert count.evaluate("e => e.scrollWidth <= e.clientWidth")  # not cut
    page.shot("app_1280")
    keys, image = page.page.keyboard, clear_image(page)
    settles(lambda: shown(page), expected(run, "efficientnet_lite0", image, "original", "grad_cam"))
    page.redrawn(lambda: page.choose_method("map 1", "LayerCAM"), says=": layer_cam of")
    settles(lambda: shown(page), expected(run, "efficientnet_lite0", image, "original", "layer_cam"))
    page.redrawn(lambda: page.choose("transform", "Rotation by 180°"))
    settles(lambda: shown(page), expected(run, "efficientnet_lite0", image, "rotate_180", "layer_cam"))
    opacity = page.slider("opacity")
    opacity.locator(".noUi-handle").focus()
    page.redrawn(lambda: keys.press("ArrowLeft"))
    page.redrawn(lambda: page.drag(0, (0.5, 0.5, 0.9, 0.9)))
    assert page.number("region_positive").endswith("%")
    whole = page.page.get_by_role("button", name="Whole image", exact=True)
    page.redrawn(lambda: page.zoom(1, (0.5, 0.5)))
    settles(whole.is_enabled, True)
    page.redrawn(whole.click)
    page.redrawn(lambda: page.page.emulate_media(color_scheme="dark"))  # light letters
    assert page.page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    page.page.locator(".xai-thumbnails button").nth(3).click()
    page.page.wait_for_function("document.querySelectorAll('.xai-thumbnails button')[3].ariaSelected === 'true'")
    page.page.get_by_role("button", name="Deletion curves").click()
    page.page.wait_for_selector(".xai-numbers td.deletion")
    page.page.set_viewport_size({"width": 1920, "height": 1080})
    page.page.wait_for_timeout(1500)
    page.shot("app_1920")
    outside = [url for url in page.requests if not url.startswith((page_of_app.url, "data:", "blob:"))]
    assert outside == []
    assert page.errors == []


def test_left_pages_leave_no_kernels(browser, run, tmp_path):
    """Pages that are closed, loaded again, beside others, closed before they are there, or gone without a word."""
    with app_server(tmp_path, run, idle_seconds=5) as server:

        def visit():
            page = browser.new_page()
            page.goto(f"{server.url}/?token={TOKEN}", timeout=LONG)
            page.wait_for_selector(STATUS, timeout=LONG)
            return page

        for _ in range(2):
            page = visit()
            assert kernels_of(server.process) == 1
            page.close(run_before_unload=True)
            settles(lambda: kernels_of(server.process), 0)
        first, second = visit(), visit()
        pins = run.folder / "findings"
        kept = set(pins.glob("*.json"))
        for page in (first, second):  # each in a kernel of its own: neither writes over the other's finding
            page.get_by_role("button", name="Pin", exact=True).click()
        for page in (first, second):
            settles(lambda page=page: page.inner_text(STATUS).partition(" as ")[0], "done: pinned", LONG / 1000)
        assert len(set(pins.glob("*.json")) - kept) == 2
        image = first.get_by_label("image", exact=True)
        image.fill("7")
        image.press("Enter")
        first.wait_for_url(re.compile("image%22%3A7"))
        first.reload(timeout=LONG)
        first.wait_for_selector(STATUS, timeout=LONG)
        settles(image.input_value, "7")  # as it was left
        settles(lambda: kernels_of(server.process), 2)
        first.close(run_before_unload=True)
        settles(lambda: kernels_of(server.process), 1)
        second.wait_for_timeout(10_000)  # twice what an unconnected kernel has
        assert kernels_of(server.process) == 1
        second.close()  # a crash: no page sees it come
        settles(lambda: kernels_of(server.process), 0)
