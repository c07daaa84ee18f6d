/* Rows of a terminal as lines of a page. Everything that a command printed goes in as text nodes, never as markup.
   Bounded: at most MOST_CHUNKS of CHUNK lines are in the page; those out of sight are not laid out (content-visibility). */

const CHUNK = 500;
const MOST_CHUNKS = 40;
const LINE_PX = 19.4;
const OOM = /out of memory/i;
const MARK_CLASSES = { d: "dim", i: "it", u: "ul", s: "st" };

export class LogView {
  constructor(pane) {
    this.pane = pane;
    this.clear();
  }

  clear() {
    this.chunks = []; // {element, count}
    this.first = null; // number of the first line in the page, once it is known
    this.count = 0;
    this.lastHit = null;
    this.droppedAbove = false;
    this.pane.replaceChildren();
  }

  get full() {
    return this.chunks.length > MOST_CHUNKS;
  }

  /* Lines at the end; those at the beginning go when there are too many. */
  append(rows) {
    for (const row of rows.slice(-CHUNK * MOST_CHUNKS)) {
      let chunk = this.chunks.at(-1);
      if (!chunk || chunk.count >= CHUNK) chunk = this.#newChunk(this.chunks.length, (element) => this.pane.append(element));
      this.#add(chunk, row, this.count++);
    }
    const skipped = Math.max(0, rows.length - CHUNK * MOST_CHUNKS);
    if (skipped) this.#forgetAbove(skipped);
    while (this.full) this.#dropTop();
  }

  /* Lines before the first one, what is on the screen stays where it is. */
  prepend(rows) {
    const anchor = this.#firstVisible();
    const before = anchor?.getBoundingClientRect().top;
    const top = this.chunks[0]?.element;
    const made = [];
    for (let start = 0; start < rows.length; start += CHUNK) {
      const chunk = { element: newChunkElement(), count: 0 };
      for (const row of rows.slice(start, start + CHUNK)) this.#add(chunk, row, null);
      this.pane.insertBefore(chunk.element, top ?? null);
      made.push(chunk);
    }
    this.chunks.unshift(...made);
    this.count += rows.length;
    if (this.first !== null) this.number(this.first - rows.length);
    if (anchor) this.pane.scrollTop += anchor.getBoundingClientRect().top - before;
  }

  /* Drop lines at the end, so that earlier ones have room; true if any went. */
  dropBottom() {
    let dropped = false;
    while (this.full) {
      const chunk = this.chunks.pop();
      this.count -= chunk.count;
      chunk.element.remove();
      dropped = true;
    }
    return dropped;
  }

  update(rows) {
    for (const row of rows) if (row.line) this.#draw(row);
  }

  /* Say which number the first line has; all are numbered from it. */
  number(first) {
    this.first = Math.max(1, first);
    let n = this.first;
    for (const { element } of this.chunks) for (const line of element.children) setNumber(line, n++);
  }

  #newChunk(index, place) {
    const chunk = { element: newChunkElement(), count: 0 };
    this.chunks.splice(index, 0, chunk);
    place(chunk.element);
    return chunk;
  }

  #add(chunk, row, index) {
    const line = document.createElement("div");
    line.className = "l";
    const link = document.createElement("a");
    link.tabIndex = -1; // thousands of stops for the tab key help nobody,
    link.ariaHidden = "true"; // nor do as many numbers read aloud
    line.append(link, document.createElement("span"));
    row.line = line;
    this.#draw(row);
    if (this.first !== null && index !== null) setNumber(line, this.first + index);
    chunk.element.append(line);
    chunk.count += 1;
    chunk.element.style.containIntrinsicSize = `auto 300px auto ${Math.round(chunk.count * LINE_PX)}px`;
  }

  #draw(row) {
    const span = row.line.lastChild;
    span.replaceChildren(...[...row.pieces()].map(([text, style]) => piece(text, style)));
    const hit = OOM.test(row.text);
    row.line.classList.toggle("hit", hit);
    if (hit) this.lastHit = row.line;
  }

  #dropTop() {
    const chunk = this.chunks.shift();
    chunk.element.remove();
    this.count -= chunk.count;
    if (this.first !== null) this.first += chunk.count;
    this.droppedAbove = true;
  }

  #forgetAbove(lines) {
    this.droppedAbove = true;
    if (this.first !== null) this.number(this.first + lines);
  }

  #firstVisible() {
    const top = this.pane.getBoundingClientRect().top;
    for (const { element } of this.chunks) {
      if (element.getBoundingClientRect().bottom <= top) continue;
      for (const line of element.children) if (line.getBoundingClientRect().bottom > top) return line;
    }
    return null;
  }
}

function newChunkElement() {
  const element = document.createElement("div");
  element.className = "chunk";
  return element;
}

function setNumber(line, n) {
  line.id = `L${n}`;
  line.firstChild.dataset.n = n;
  line.firstChild.href = `#L${n}`;
}

function piece(text, { fg, bg, marks }) {
  if (fg === null && bg === null && !marks) return document.createTextNode(text);
  const element = document.createElement(marks.includes("b") ? "b" : "span");
  element.textContent = text;
  const [ink, ground] = marks.includes("r") ? [bg ?? 0, fg ?? 7] : [fg, bg];
  colour(element, "f", "color", ink);
  colour(element, "b", "backgroundColor", ground);
  for (const mark of marks) if (MARK_CLASSES[mark]) element.classList.add(MARK_CLASSES[mark]);
  return element;
}

function colour(element, prefix, property, value) {
  if (typeof value === "number") element.classList.add(prefix + value);
  else if (value) element.style[property] = value;
}
