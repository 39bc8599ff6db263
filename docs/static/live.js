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
    this.queue = Promise.resolve();
    const place = new URL("live/worker.js", document.getElementById("live-script").src);
    this.worker = new Worker(place, { type: "module" });
    this.worker.onerror = (event) => this.fail(event.message ?? "the worker did not start");
    this.worker.onmessage = ({ data }) => {
      if (data.failed) this.fail(data.failed);
      else if (data.state) this.say(`${data.state} …`);
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

  // Run a cell, and before it those that were not run yet.
  runUpTo(last) {
    if (!this.worker) this.start();
    const numbers = [...this.cells.keys()].filter((n) => n === last || (n < last && !this.cells[n].done && !this.cells[n].queued));
    for (const number of numbers) {
      this.cells[number].queued = true;
      this.queue = this.queue.then(() => this.run(number));
    }
    this.queue = this.queue.then(() => this.worker && this.waiting.size === 0 && this.say("Change any cell; Shift+Enter runs it."));
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
    cell.end(outputs);
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

  end(outputs) {
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
    place?.replaceChildren(...outputs.map(drawn));
  }
}

// What a cell shows, as a piece of the page.
const drawn = ({ kind, text }) => {
  const piece = document.createElement("div");
  piece.className = `output live-${kind}`;
  if (kind === "svg" || kind === "html") {
    piece.innerHTML = text;
    return piece;
  }
  const inner = document.createElement("pre");
  inner.textContent = text;
  const box = document.createElement("div");
  box.className = "highlight";
  box.append(inner);
  piece.append(box);
  return piece;
};

document.addEventListener("DOMContentLoaded", () => {
  const bar = document.getElementById("live-bar");
  const cells = document.getElementById("live-cells");
  if (bar && cells) window.live = new Live(bar, JSON.parse(cells.textContent));
});
