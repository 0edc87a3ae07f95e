// A transparent layer over a picture: a box is drawn on any image of it with the mouse or a finger, and shown on all.
// It also tells how wide the panel is.
const CLICK = 4; // pixels: a shorter drag is a click, which clears the box

function render({ model, el }) {
  el.classList.add("xai-region");
  let drag = null;

  const percent = (value) => `${100 * value}%`;
  const clamp = (value) => Math.min(1, Math.max(0, value));
  function at(event, frame) {
    const area = frame.getBoundingClientRect();
    return [clamp((event.clientX - area.left) / area.width), clamp((event.clientY - area.top) / area.height)];
  }
  const boxOf = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];

  function show(box) {
    for (const frame of el.children) {
      frame.replaceChildren();
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
      return frame;
    });
    drag = null;
    el.replaceChildren(...frames);
    refresh();
  }
  const refresh = () => show(model.get("box"));

  function begin(event) {
    if (event.button !== 0) return;
    const frame = event.currentTarget;
    drag = { from: at(event, frame), x: event.clientX, y: event.clientY };
    frame.setPointerCapture(event.pointerId);
    event.preventDefault();
  }
  function move(event) {
    if (drag) show(boxOf(drag.from, at(event, event.currentTarget)));
  }
  function end(event) {
    if (!drag) return;
    const moved = Math.max(Math.abs(event.clientX - drag.x), Math.abs(event.clientY - drag.y));
    const box = moved < CLICK ? [] : boxOf(drag.from, at(event, event.currentTarget));
    drag = null;
    show(box);
    model.send({ box });
  }
  function cancel() {
    drag = null;
    refresh();
  }

  // Letters that choose in a list are commands to JupyterLab, unless the list says that they are not: an x cuts the cell.
  const keepKeys = (event) => event.target.setAttribute("data-lm-suppress-shortcuts", "true");

  // The picture is drawn as wide as the panel is, and as sharp as the screen.
  let timer = null;
  function measure() {
    const width = Math.floor(el.closest(".xai-panel")?.clientWidth ?? 0);
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    if (width < 200 || (Math.abs(width - model.get("width")) < 8 && ratio === model.get("ratio"))) return;
    model.set("width", width);
    model.set("ratio", ratio);
    model.save_changes();
  }
  const observer = new ResizeObserver(() => {
    clearTimeout(timer);
    timer = setTimeout(measure, 200);
  });
  function watch() {
    const panel = el.closest(".xai-panel"); // the view is put into the page after it is made
    if (!panel) {
      timer = setTimeout(watch, 100);
      return;
    }
    observer.observe(panel);
    panel.addEventListener("focusin", keepKeys);
  }
  watch();

  model.on("change:box", refresh);
  model.on("change:frames", place);
  place();
  return () => {
    observer.disconnect();
    clearTimeout(timer);
    model.off("change:box", refresh);
    model.off("change:frames", place);
  };
}

export default { render };
