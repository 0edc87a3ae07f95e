// A transparent layer over a picture. On any image of it a box is drawn, or all images are moved and zoomed, or their grey
// levels changed, as the mode says. It also tells how wide the panel is, and writes the view into the page's address.
const CLICK = 4; // pixels: a shorter drag is a click, which clears the box
const WAIT = 60; // milliseconds between messages of one movement
const WHOLE = [0, 0, 1, 1];

function render({ model, el }) {
  el.classList.add("xai-layer");
  let drag = null;
  let wanted = null; // the part of the images that is asked for, while another is drawn
  let waiting = null; // the newest message that is not sent yet

  const percent = (value) => `${100 * value}%`;
  const clamp = (value) => Math.min(1, Math.max(0, value));
  function at(event, frame) {
    const area = frame.getBoundingClientRect();
    return [clamp((event.clientX - area.left) / area.width), clamp((event.clientY - area.top) / area.height)];
  }
  const boxOf = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
  function tell(message) {
    const idle = waiting === null;
    waiting = message;
    if (!idle) return;
    setTimeout(() => {
      model.send(waiting);
      waiting = null;
    }, WAIT);
  }

  // Zoom: the browser stretches the picture that is there until the sharp one comes.
  function zoomTo([left, top, right, bottom]) {
    const size = Math.min(1, Math.max(right - left, bottom - top));
    const from = (start, end) => Math.min(Math.max((start + end - size) / 2, 0), 1 - size);
    const [x, y] = [from(left, right), from(top, bottom)];
    wanted = [x, y, x + size, y + size];
    preview();
    tell({ zoom: wanted });
  }
  function preview() {
    el.querySelectorAll(".xai-preview").forEach((old) => old.remove());
    const image = el.closest(".xai-panel")?.querySelector(".widget-image");
    const drawn = model.get("zoom");
    if (!wanted || !image || wanted.every((value, k) => Math.abs(value - drawn[k]) < 1e-3)) return;
    const size = [drawn[2] - drawn[0], drawn[3] - drawn[1]];
    const part = wanted.map((value, k) => (value - drawn[k % 2]) / size[k % 2]); // of what a frame shows
    const scale = 1 / (part[2] - part[0]);
    [...el.children].forEach((frame) => {
      const shown = document.createElement("div");
      shown.className = "xai-preview";
      const [x, y] = [frame.offsetLeft + part[0] * frame.clientWidth, frame.offsetTop + part[1] * frame.clientHeight];
      const beyond = [-part[1], part[2] - 1, part[3] - 1, -part[0]].map((value) => percent(Math.max(0, value * scale)));
      Object.assign(shown.style, {
        backgroundImage: `url("${image.src}")`,
        backgroundSize: `${el.clientWidth * scale}px ${el.clientHeight * scale}px`,
        backgroundPosition: `${-x * scale}px ${-y * scale}px`,
        clipPath: `inset(${beyond.join(" ")})`, // what is not drawn yet, not the next picture
      });
      frame.prepend(shown);
    });
  }
  function drawnAnew() {
    if (!drag) wanted = null;
    preview();
  }
  function wheel(event) {
    if (!event.ctrlKey && !event.metaKey && model.get("mode") !== "move") return; // the page scrolls
    event.preventDefault();
    const [x, y] = at(event, event.currentTarget);
    const part = wanted ?? model.get("zoom");
    const [width, height] = [part[2] - part[0], part[3] - part[1]];
    const by = Math.max(Math.exp(0.002 * Math.max(-200, Math.min(200, event.deltaY))), 0.03 / width);
    const [left, top] = [part[0] + x * width * (1 - by), part[1] + y * height * (1 - by)];
    zoomTo([left, top, left + width * by, top + height * by]);
  }
  const fit = () => zoomTo(WHOLE);

  function show(box) {
    for (const frame of el.children) {
      frame.querySelectorAll(":scope > div:not(.xai-preview)").forEach((old) => old.remove());
      if (box.length !== 4) continue;
      const mark = document.createElement("div");
      Object.assign(mark.style, {
        left: percent(box[0]),
        top: percent(box[1]),
        width: percent(box[2] - box[0]),
        height: percent(box[3] - box[1]),
      });
      frame.append(mark);
    }
  }
  function place() {
    const frames = model.get("frames").map(([left, top, width, height]) => {
      const frame = document.createElement("div");
      Object.assign(frame.style, {
        left: percent(left),
        top: percent(top),
        width: percent(width),
        height: percent(height),
      });
      frame.addEventListener("pointerdown", begin);
      frame.addEventListener("pointermove", move);
      frame.addEventListener("pointerup", end);
      frame.addEventListener("pointercancel", cancel);
      frame.addEventListener("wheel", wheel, { passive: false });
      frame.addEventListener("dblclick", fit);
      return frame;
    });
    drag = null;
    el.replaceChildren(...frames);
    refresh();
    drawnAnew();
  }
  const refresh = () => show(model.get("box"));

  function begin(event) {
    if (event.button > 1) return;
    const frame = event.currentTarget;
    const mode = event.button === 1 || event.shiftKey ? "move" : model.get("mode");
    const part = wanted ?? model.get("zoom");
    drag = { mode, part, window: model.get("window"), from: at(event, frame), x: event.clientX, y: event.clientY };
    frame.setPointerCapture(event.pointerId);
    event.preventDefault();
  }
  function move(event) {
    if (!drag) return;
    const frame = event.currentTarget;
    const by = [(event.clientX - drag.x) / frame.clientWidth, (event.clientY - drag.y) / frame.clientHeight];
    if (drag.mode === "region") show(boxOf(drag.from, at(event, frame)));
    else if (drag.mode === "move") {
      const [left, top, right, bottom] = drag.part;
      const [x, y] = [by[0] * (right - left), by[1] * (bottom - top)];
      zoomTo([left - x, top - y, right - x, bottom - y]);
    } else {
      // As at a reading station: to the right for less contrast, down for a brighter picture.
      const [black, white] = drag.window;
      const width = Math.min(255, Math.max(2, (white - black) * Math.exp(2 * by[0])));
      const middle = (black + white) / 2 - 255 * by[1];
      const low = Math.round(Math.min(Math.max(middle - width / 2, 0), 253));
      tell({ window: [low, Math.min(255, Math.max(low + 2, Math.round(middle + width / 2)))] });
    }
  }
  function end(event) {
    if (!drag) return;
    const { mode, from, x, y } = drag;
    drag = null;
    if (mode !== "region") return;
    const moved = Math.max(Math.abs(event.clientX - x), Math.abs(event.clientY - y));
    const box = moved < CLICK ? [] : boxOf(from, at(event, event.currentTarget));
    if (!box.length && !model.get("box").length) return; // nothing to clear
    show(box);
    model.send({ box });
  }
  function cancel() {
    drag = null;
    refresh();
  }

  // What is typed here are commands to JupyterLab, unless the element says that they are not: an x cuts the cell. Only
  // saving is one. JupyterLab listens on the document, so this must on the window.
  function keepKeys(event) {
    if (!panel()?.contains(event.target)) return;
    const saves = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "s";
    event.target.toggleAttribute("data-lm-suppress-shortcuts", !saves);
  }
  function keys(event) {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z") return;
    const typed = "input:not([type=checkbox], [aria-expanded=false]), textarea"; // but a list of methods that is shut
    if (event.target.matches(typed)) return; // it undoes its own letters
    event.preventDefault();
    event.stopPropagation();
    model.send({ undo: event.shiftKey ? 1 : -1 });
  }

  // The picture is drawn as wide as its place is, as sharp as the screen, and for the page's theme.
  let timer = null;
  const panel = () => el.closest(".xai-panel"); // null until the view is put into the page
  function measure() {
    const width = Math.floor(el.closest(".xai-main")?.clientWidth ?? 0);
    if (width < 200) return;
    const told = {
      width: Math.abs(width - model.get("width")) < 8 ? model.get("width") : width,
      height: Math.abs(window.innerHeight - model.get("height")) < 40 ? model.get("height") : window.innerHeight,
      ratio: Math.min(2, window.devicePixelRatio || 1),
      dark: getComputedStyle(panel()).color.match(/[\d.]+/g).slice(0, 3).every((part) => part > 127),
    };
    for (const [name, value] of Object.entries(told)) model.set(name, value);
    model.save_changes();
  }
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(measure, 200);
  };
  const observer = new ResizeObserver(later);
  const theme = new MutationObserver(later);
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  function watch() {
    if (!panel()) {
      timer = setTimeout(watch, 100);
      return;
    }
    observer.observe(el.closest(".xai-main"));
    theme.observe(document.body, { attributes: true });
    scheme.addEventListener("change", later);
    window.addEventListener("keydown", keepKeys, true);
    panel().addEventListener("keydown", keys);
  }
  watch();

  // A page of its own can be loaded again as it is; JupyterLab's address is its own, and its kernel lives on.
  function address() {
    if (!document.body.dataset.voila || !model.get("view")) return;
    const url = new URL(window.location.href);
    url.searchParams.delete("token"); // the cookie has it
    url.searchParams.set("view", model.get("view"));
    window.history.replaceState(null, "", url);
  }
  const setMode = () => (el.dataset.mode = model.get("mode"));
  model.on("change:mode", setMode);
  model.on("change:view", address);
  model.on("change:zoom", drawnAnew);
  setMode();
  address();
  model.on("change:box", refresh);
  model.on("change:frames", place);
  place();
  return () => {
    observer.disconnect();
    theme.disconnect();
    scheme.removeEventListener("change", later);
    window.removeEventListener("keydown", keepKeys, true);
    clearTimeout(timer);
    model.off("change:mode", setMode);
    model.off("change:view", address);
    model.off("change:zoom", drawnAnew);
    model.off("change:box", refresh);
    model.off("change:frames", place);
  };
}

export default { render };
