// A field to choose a method in. Typing filters the list, which is grouped by family; beside it stands what the catalogue
// says of the method that is marked: formula, cost, pitfalls, and why it does not suit the model.
function render({ model, el }) {
  const make = (tag, name, parent) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    parent.append(made);
    return made;
  };
  const box = make("div", "xai-method", el);
  const field = make("input", "", box);
  const popup = make("div", "xai-methods", box);
  const list = make("div", "", popup);
  const about = make("div", "xai-about", popup);
  popup.popover = "manual"; // above all else, whatever the notebook's cells cut off
  for (const [name, value] of Object.entries({ role: "combobox", "aria-expanded": "false", autocomplete: "off" }))
    field.setAttribute(name, value);
  field.setAttribute("aria-label", model.get("label"));
  field.placeholder = "add a map";
  field.title = "attribution method: type to search, by name, family or author";
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "methods");
  let marked = null;

  const none = { name: "", title: "none", family: "", about: "<p>No map.</p>" };
  const all = () => [...(model.get("optional") ? [none] : []), ...model.get("methods")];
  const chosen = () => all().find(({ name }) => name === model.get("value")) ?? none;
  const reason = (name) => model.get("unsuited")[name];
  const isOpen = () => popup.matches(":popover-open");

  function refresh() {
    field.value = model.get("value") ? chosen().title : "";
    field.setAttribute("aria-invalid", String(Boolean(reason(chosen().name))));
    if (isOpen()) fill("");
  }
  function mark(option, scroll = true) {
    if (marked) marked.setAttribute("aria-selected", "false");
    marked = option;
    about.replaceChildren();
    if (!option) return;
    option.setAttribute("aria-selected", "true");
    if (scroll) option.scrollIntoView({ block: "nearest" });
    const why = reason(option.method.name);
    if (why) make("p", "xai-reason", about).textContent = `Does not suit this model: ${why}`;
    const text = make("div", "", about);
    text.innerHTML = option.method.about; // made and escaped by the package
  }
  function fill(typed) {
    const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
    const found = all().filter(({ title, name, family, about }) => {
      const text = `${title} ${name} ${family} ${about}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    // Those whose name has the words, before those whose text has.
    const named = found.filter(({ title, name }) => words.every((word) => `${title} ${name}`.toLowerCase().includes(word)));
    const shown = named.length ? named : found;
    list.replaceChildren();
    for (const family of new Set(shown.map((method) => method.family))) {
      if (family) make("div", "xai-family", list).textContent = family;
      for (const method of shown.filter((one) => one.family === family)) {
        const option = make("div", "", list);
        option.method = method;
        option.textContent = method.title;
        option.setAttribute("role", "option");
        option.setAttribute("aria-disabled", String(Boolean(reason(method.name))));
        option.addEventListener("pointerenter", () => mark(option, false));
        option.addEventListener("click", () => choose(option));
      }
    }
    if (!shown.length) make("div", "xai-family", list).textContent = "no method has this in its name or text";
    const options = [...list.querySelectorAll("[role=option]")];
    const fits = (test) => options.find((option) => test(option.method.title.toLowerCase()));
    const start = typed.toLowerCase().trim();
    const first = words.length
      ? fits((title) => title === start) ?? fits((title) => title.startsWith(start)) ?? options[0]
      : options.find((option) => option.method.name === model.get("value"));
    marked = null;
    mark(first ?? null);
  }
  function open(typed = "") {
    if (!isOpen()) {
      popup.showPopover();
      const area = field.getBoundingClientRect();
      const [width, height] = [popup.offsetWidth, popup.offsetHeight];
      const below = area.bottom + height < window.innerHeight || area.top < height;
      popup.style.left = `${Math.max(4, Math.min(area.left, window.innerWidth - width - 8))}px`;
      popup.style.top = `${Math.max(4, below ? Math.min(area.bottom + 2, window.innerHeight - height - 4) : area.top - height - 2)}px`;
      field.setAttribute("aria-expanded", "true");
    }
    fill(typed);
  }
  function close() {
    if (isOpen()) popup.hidePopover();
    field.setAttribute("aria-expanded", "false");
    refresh();
  }
  function choose(option) {
    if (!option || option.getAttribute("aria-disabled") === "true") return;
    model.set("value", option.method.name);
    model.save_changes();
    close();
  }

  field.addEventListener("focus", () => field.select());
  field.addEventListener("click", () => open());
  field.addEventListener("input", () => open(field.value));
  field.addEventListener("blur", close);
  popup.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus
  field.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && isOpen()) {
      const options = [...list.querySelectorAll("[role=option]")];
      mark(options[options.indexOf(marked) + step] ?? marked);
    } else if (step) open();
    else if (event.key === "Enter" && isOpen()) choose(marked);
    else if (event.key === "Escape" && isOpen()) close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  model.on("change:value change:unsuited", refresh);
  refresh();
  return () => model.off("change:value change:unsuited", refresh);
}

export default { render };
