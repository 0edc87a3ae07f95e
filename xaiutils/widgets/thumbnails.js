// A row of small images to choose from: one tab stop, the arrow keys move, Enter, Space or a click chooses.
function render({ model, el }) {
  el.classList.add("xai-thumbnails");
  el.setAttribute("role", "listbox");
  el.setAttribute("aria-label", "images");
  el.setAttribute("aria-orientation", "horizontal");
  let url = null;

  function mark() {
    const chosen = model.get("chosen");
    [...el.children].forEach((button, position) => {
      button.setAttribute("aria-selected", String(position === chosen));
      button.tabIndex = position === Math.max(chosen, 0) ? 0 : -1;
    });
  }
  function fill() {
    const cells = model.get("cells");
    const side = model.get("side");
    if (url) URL.revokeObjectURL(url);
    url = URL.createObjectURL(new Blob([model.get("sheet")], { type: "image/jpeg" }));
    el.replaceChildren(
      ...cells.map((cell, position) => {
        const button = document.createElement("button");
        button.type = "button";
        button.setAttribute("role", "option");
        button.setAttribute("aria-label", cell.title);
        button.title = cell.title;
        button.dataset.mark = cell.mark;
        const picture = document.createElement("div");
        picture.style.cssText =
          `width:${side}px;height:${side}px;background:url(${url}) -${position * side}px 0 no-repeat`;
        const words = [cell.label, cell.detail, cell.answer].filter(Boolean).map((text) => {
          const line = document.createElement("span");
          line.textContent = text;
          return line;
        });
        button.append(picture, ...words);
        button.addEventListener("click", () => model.send({ image: cell.image }));
        return button;
      }),
    );
    mark();
  }
  el.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1 };
    const buttons = [...el.children];
    const next = buttons[buttons.indexOf(document.activeElement) + steps[event.key]];
    if (!(event.key in steps)) return;
    event.preventDefault();
    event.stopPropagation();
    if (next) {
      buttons.forEach((button) => (button.tabIndex = -1));
      next.tabIndex = 0;
      next.focus();
    }
  });
  model.on("change:cells", fill);
  model.on("change:chosen", mark);
  fill();
  return () => {
    model.off("change:cells", fill);
    model.off("change:chosen", mark);
    if (url) URL.revokeObjectURL(url);
  };
}

export default { render };
