// Pages whose cells can be run and changed where they stand: see docs/livepages.py. Python runs in a worker, see live/worker.js.

class Live {
  constructor(bar, sources) {
    this.button = bar.querySelector("button");
    this.said = bar.querySelector("span");
    const shown = [...document.querySelectorAll("article div.cell")].filter((e) => e.querySelector("div.cell_input pre"));
    this.cells = sources.map((source) => (source === null ? new Cell(shown.shift(), this) : new HiddenCell(source)));
    this.button.addEventListener("click", () => (this.worker ? this.stop() : this.begin()));
    bar.hidden = false;
    if (location.protocol === "file:") {
      this.button.disabled = true;
      this.say("To run the cells of this page, serve the site: python -m http.server -d _docs");
    }
  }

  say(text) {
    this.said.textContent = text;
  }

  // Run everything, which makes all cells ready to be changed.
  begin() {
    this.start();
    this.runUpTo(this.cells.length - 1);
  }

  start() {
    this.button.textContent = "Stop";
    document.body.classList.add("live");
    this.waiting = new Map();
    this.moves = new Map();
    this.drawing = false;
    this.queue = Promise.resolve();
    const place = new URL("live/worker.js", document.getElementById("live-script").src);
    this.worker = new Worker(place, { type: "module" });
    this.worker.onerror = (event) => this.fail(event.message ?? "the worker did not start");
    this.worker.onmessage = ({ data }) => {
      if (data.failed) this.fail(data.failed);
      else if (data.state) this.say(`${data.state} …`);
      else if (data.parts) this.show(data);
      else this.waiting.get(data.number)?.(data.outputs);
    };
    for (const cell of this.cells) cell.open();
  }

  fail(text) {
    this.stop();
    this.say(`Python came to its end: ${text}`);
  }

  // The worker ends at once, whatever it does; what the cells defined is forgotten.
  stop() {
    this.worker.terminate();
    this.worker = null;
    for (const cell of this.cells) cell.close();
    this.button.textContent = "Run this page";
    this.say("Stopped. What the cells defined is forgotten; what they show stays.");
  }

  // A control was moved. While Python draws, only the latest place of each control waits.
  move(control, value) {
    if (!this.worker) return;
    this.moves.set(control, value);
    if (this.moves.size === 1 && !this.drawing) this.next();
  }

  next() {
    const [move] = this.moves;
    this.drawing = move !== undefined;
    if (!move) return;
    this.moves.delete(move[0]);
    this.worker.postMessage({ control: move[0], value: move[1] });
  }

  show({ parts, values }) {
    for (const [number, outputs] of Object.entries(parts)) {
      for (const place of document.querySelectorAll(`[data-part="${number}"]`)) place.replaceChildren(...outputs.map((one) => drawn(one, this)));
    }
    for (const [number, value] of Object.entries(values)) {
      for (const control of document.querySelectorAll(`[data-control="${number}"]`)) {
        if (!this.moves.has(Number(number))) control.set(value);
      }
    }
    this.next();
  }

  // Run a cell, and before it those that were not run yet.
  runUpTo(last) {
    if (!this.worker) this.start();
    const numbers = [...this.cells.keys()].filter((n) => n === last || (n < last && !this.cells[n].done && !this.cells[n].queued));
    for (const number of numbers) {
      this.cells[number].queued = true;
      this.queue = this.queue.then(() => this.run(number));
    }
    this.queue = this.queue.then(() => this.worker && this.waiting.size === 0 && this.say("Change any cell; ▶ or Shift+Enter runs it."));
    return this.queue;
  }

  async run(number) {
    const worker = this.worker;
    if (!worker) return;
    const cell = this.cells[number];
    cell.begin();
    const outputs = await new Promise((resolve) => {
      this.waiting.set(number, (outputs) => {
        this.say(`cell ${number + 1} of ${this.cells.length} …`);
        resolve(outputs);
      });
      worker.postMessage({ number, source: cell.source });
    });
    this.waiting.delete(number);
    cell.end(outputs, this);
  }
}

// A cell that the page does not show: mostly an import.
class HiddenCell {
  constructor(source) {
    this.source = source;
  }
  open() {
    this.done = this.queued = false;
  }
  close() {}
  begin() {}
  end() {
    this.done = true;
    this.queued = false;
  }
}

class Cell {
  constructor(element, live) {
    this.element = element;
    this.text = element.querySelector("div.cell_input pre");
    this.mark = document.createElement("button");
    this.mark.type = "button";
    this.mark.className = "live-run";
    this.mark.textContent = "▶";
    this.mark.title = "Run this cell (Shift+Enter)";
    this.mark.setAttribute("aria-label", "Run this cell");
    this.mark.hidden = true;
    element.querySelector("div.cell_input").append(this.mark);
    const run = () => live.runUpTo(live.cells.indexOf(this));
    this.mark.addEventListener("click", run);
    this.text.addEventListener("keydown", (event) => {
      if (this.text.contentEditable === "false") return;
      if (event.key === "Enter" && (event.shiftKey || event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        run();
      } else if (event.key === "Enter") {
        event.preventDefault();
        document.execCommand("insertText", false, "\n" + this.indentation());
      } else if (event.key === "Escape") {
        this.text.blur();
      }
    });
  }

  get source() {
    return this.text.innerText; // a browser may put line breaks in as elements
  }

  // The spaces that the line with the cursor begins with, four more after a colon.
  indentation() {
    const selection = getSelection();
    const range = document.createRange();
    range.setStart(this.text, 0);
    range.setEnd(selection.focusNode, selection.focusOffset);
    const line = range.toString().split("\n").pop();
    return line.match(/^ */)[0] + (line.trimEnd().endsWith(":") ? "    " : "");
  }

  open() {
    this.done = this.queued = false;
    this.mark.hidden = false;
    this.text.contentEditable = "plaintext-only";
    this.text.spellcheck = false;
    this.text.setAttribute("role", "textbox");
    this.text.setAttribute("aria-multiline", "true");
    this.text.setAttribute("aria-label", "Python, to be changed");
  }

  close() {
    this.mark.hidden = true;
    this.text.contentEditable = "false";
    this.element.classList.remove("live-running");
  }

  begin() {
    this.element.classList.add("live-running");
  }

  end(outputs, live) {
    this.done = true;
    this.queued = false;
    this.element.classList.remove("live-running");
    this.element.classList.add("live-done");
    const absent = outputs.find((output) => output.kind === "absent");
    let place = this.element.querySelector("div.cell_output");
    if (!place && outputs.length) {
      place = document.createElement("div");
      place.className = "cell_output docutils container";
      this.element.append(place);
    }
    place?.querySelector(".live-note")?.remove();
    if (absent) {
      const note = document.createElement("p");
      note.className = "live-note";
      note.textContent = `Not in a browser: ${absent.text}. What stands here was made in Jupyter.`;
      place.append(note);
      return;
    }
    place?.replaceChildren(...outputs.map((one) => drawn(one, live)));
  }
}

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

// What a cell shows, as a piece of the page.
const drawn = (output, live) => {
  const { kind, text } = output;
  const piece = element("div", { className: `output live-${kind}` });
  if (kind === "widget") piece.append(control(output.tree, output.parts, live));
  else if (kind === "svg" || kind === "html") piece.innerHTML = text;
  else piece.append(element("div", { className: "highlight" }, element("pre", { textContent: text })));
  return piece;
};

// A control of docs/live/ipywidgets.py, as a browser's own. `set` shows a value that Python gave it.
const control = (tree, parts, live) => {
  const { widget, number, description, options } = tree;
  if (tree.children) {
    const box = element("div", { className: `live-box live-${widget}` }, ...tree.children.map((one) => control(one, parts, live)));
    if (parts[number]) {
      const part = element("div", {}, ...parts[number].map((one) => drawn(one, live)));
      part.dataset.part = number;
      box.append(part);
    }
    return box;
  }
  if (widget === "Button") {
    return element("button", { type: "button", textContent: description, onclick: () => live.move(number, null) });
  }
  if (widget === "ToggleButtons") {
    const made = options.map((text, place) => element("button", { type: "button", textContent: text, onclick: () => live.move(number, place) }));
    const row = element("div", { className: "live-HBox" }, element("span", { textContent: description }), ...made);
    row.set = (value) => made.forEach((one, place) => one.setAttribute("aria-pressed", place === value));
    row.dataset.control = number;
    row.set(tree.value);
    return row;
  }
  const range = options ? { min: 0, max: options.length - 1, step: 1 } : tree;
  const slider = element("input", { type: "range", min: range.min, max: range.max, step: range.step, value: tree.value });
  const value = element("output");
  const row = element("label", { className: "live-HBox" }, element("span", { textContent: description }), slider, value);
  const say = () => (value.textContent = options ? options[slider.value] : slider.value);
  row.set = (fresh) => {
    slider.value = fresh;
    say();
  };
  slider.addEventListener("input", () => {
    say();
    live.move(number, Number(slider.value));
  });
  row.dataset.control = number;
  say();
  return row;
};

document.addEventListener("DOMContentLoaded", () => {
  const bar = document.getElementById("live-bar");
  const cells = document.getElementById("live-cells");
  if (bar && cells) window.live = new Live(bar, JSON.parse(cells.textContent));
});
