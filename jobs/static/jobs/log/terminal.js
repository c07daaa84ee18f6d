/* What a terminal would show: the same small line emulator as jobs/terminal.py, with colours, for a log that arrives in pieces.
   Only the last LOOK_BACK rows can still change. Rows hold text and, where there is any, a style for each character. */

const LOOK_BACK = 50;
const MAX_COLUMNS = 20000; // of one row, on a page
const MAX_ESCAPE = 4096;

const TOKEN = /([^\x00-\x1f\x7f-\x9f]+)|(?:\x1b\[|\x9b)([0-?]*)([ -/]*)([@-~])|(?:\x1b[\]P^_X]|[\x9d\x90\x9e\x9f\x98])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|(?=\x1b))|\x1b[ -/]*[0-OQ-WYZ`-~\\]|(.)/gs;
const UNFINISHED = /(?:(?:\x1b\[|\x9b)[0-?]*[ -/]*|(?:\x1b[\]P^_X]|[\x9d\x90\x9e\x9f\x98])[^\x07\x1b\x9c]*\x1b?|\x1b[ -/]*)$/s;
const CONTROL = /[\x00-\x1f\x7f-\x9f]/;
const BIDI = /[\u202a-\u202e\u2066-\u2069]/g; // could make a line read as another

const PLAIN = Object.freeze({ fg: null, bg: null, marks: "" });
const DIM = Object.freeze({ fg: null, bg: null, marks: "d" });

export class Row {
  constructor() {
    this.text = "";
    this.styles = null;
    this.line = null; // its element, once it has one
  }

  put(column, text, style) {
    const end = column + text.length;
    if (column > this.text.length) this.text = this.text.padEnd(column);
    if (style !== PLAIN && !this.styles) this.styles = new Array(this.text.length).fill(PLAIN);
    if (this.styles) {
      while (this.styles.length < column) this.styles.push(PLAIN);
      for (let i = column; i < end; i++) this.styles[i] = style;
    }
    this.text = this.text.slice(0, column) + text + this.text.slice(end);
  }

  erase(which, column) {
    if (which === 1) return this.put(0, " ".repeat(Math.min(column + 1, MAX_COLUMNS)), PLAIN);
    const kept = which === 2 ? 0 : column;
    this.text = this.text.slice(0, kept);
    if (this.styles) this.styles.length = Math.min(this.styles.length, kept);
  }

  /* [[text, style], …]: neighbours of the same style together. */
  *pieces() {
    if (!this.styles) return yield [this.text, PLAIN];
    let start = 0;
    for (let i = 1; i <= this.text.length; i++) {
      if (i < this.text.length && (this.styles[i] ?? PLAIN) === (this.styles[start] ?? PLAIN)) continue;
      yield [this.text.slice(start, i), this.styles[start] ?? PLAIN];
      start = i;
    }
  }
}

export class Terminal {
  constructor() {
    this.rows = [new Row()]; // those that can still change
    this.fresh = [...this.rows]; // made since the last take()
    this.dirty = new Set();
    this.row = 0;
    this.column = 0;
    this.style = PLAIN;
    this.known = new Map(); // equal styles are the same object
    this.held = "";
  }

  feed(text) {
    const [first, ...others] = (this.held + text).split("\n");
    this.held = "";
    this.#line(first);
    for (const line of others) {
      this.held = "";
      this.#down();
      this.#line(line);
    }
  }

  /* A line of ours, below everything that was written. What comes next needs a new Terminal. */
  mark(text) {
    this.row = this.rows.length - 1;
    if (this.rows[this.row].text.trimEnd()) this.#down();
    this.column = 0;
    this.style = DIM;
    this.#write(text);
  }

  /* Rows made and rows changed since the last time. */
  take() {
    const taken = { fresh: this.fresh, dirty: this.dirty };
    this.fresh = [];
    this.dirty = new Set();
    return taken;
  }

  #line(text) {
    if (!CONTROL.test(text)) return this.#write(text);
    const unfinished = UNFINISHED.exec(text);
    if (unfinished) {
      this.held = unfinished[0].length <= MAX_ESCAPE ? unfinished[0] : unfinished[0].slice(0, 2);
      text = text.slice(0, unfinished.index);
    }
    for (const [, plain, params, middle, final, control] of text.matchAll(TOKEN)) {
      if (plain) this.#write(plain);
      else if (final && !middle) this.#sequence(params, final);
      else if (control) this.#control(control);
    }
  }

  #control(char) {
    if (char === "\r") this.column = 0;
    else if (char === "\b") this.column = Math.max(0, this.column - 1);
    else if (char === "\t") this.column = Math.min(Math.floor(this.column / 8) * 8 + 8, MAX_COLUMNS - 1);
    else if (char === "\v" || char === "\f") this.#down();
  }

  #sequence(params, final) {
    if (final === "m") return this.#colour(params);
    const number = Number.parseInt(params, 10) || 0;
    const times = Math.max(1, number);
    if ("AF".includes(final)) this.#move(-times, 0, final === "F");
    else if ("BEe".includes(final)) this.#move(times, 0, final === "E");
    else if ("Ca".includes(final)) this.#move(0, times);
    else if (final === "D") this.#move(0, -times);
    else if ("G`".includes(final)) this.column = Math.min(times, MAX_COLUMNS) - 1;
    else if (final === "K") this.#erase(number);
    else if (final === "J" && number === 0) {
      this.#erase(0);
      for (const row of this.rows.slice(this.row + 1)) {
        row.erase(2, 0);
        this.dirty.add(row);
      }
    }
  }

  #move(rows, columns, toStart = false) {
    const row = Math.min(Math.max(0, this.row + rows), LOOK_BACK - 1);
    while (this.rows.length <= row) this.#add();
    this.row = row;
    this.column = toStart ? 0 : Math.min(Math.max(0, this.column + columns), MAX_COLUMNS - 1);
  }

  #erase(which) {
    if (which > 2) return;
    this.rows[this.row].erase(which, this.column);
    this.dirty.add(this.rows[this.row]);
  }

  #add() {
    const row = new Row();
    this.rows.push(row);
    this.fresh.push(row);
  }

  #down() {
    this.row += 1;
    this.column = 0;
    if (this.row === this.rows.length) this.#add();
    if (this.rows.length > LOOK_BACK) {
      this.rows.shift();
      this.row -= 1;
    }
  }

  #write(text) {
    const row = this.rows[this.row];
    const room = MAX_COLUMNS - this.column;
    if (!text || room <= 0) return;
    const shown = (text.length > room ? text.slice(0, room) : text).replace(BIDI, "\ufffd");
    row.put(this.column, shown, this.style);
    this.column += shown.length;
    this.dirty.add(row);
  }

  #colour(params) {
    const codes = params.split(/[;:]/).map((code) => Number.parseInt(code, 10) || 0);
    let style = { ...this.style };
    for (let i = 0; i < codes.length; i++) {
      const code = codes[i];
      if (code === 0) style = { ...PLAIN };
      else if (code in MARKS) style.marks = [...new Set([...style.marks, MARKS[code]])].sort().join("");
      else if (code in UNMARKS) style.marks = [...style.marks].filter((mark) => !UNMARKS[code].includes(mark)).join("");
      else if (code === 38 || code === 48) {
        const [colour, used] = longColour(codes, i + 1);
        style[code === 38 ? "fg" : "bg"] = colour;
        i += used;
      } else if (code >= 30 && code <= 37) style.fg = code - 30;
      else if (code >= 90 && code <= 97) style.fg = code - 82;
      else if (code === 39) style.fg = null;
      else if (code >= 40 && code <= 47) style.bg = code - 40;
      else if (code >= 100 && code <= 107) style.bg = code - 92;
      else if (code === 49) style.bg = null;
    }
    this.style = this.#same(style);
  }

  #same(style) {
    const name = `${style.fg}/${style.bg}/${style.marks}`;
    if (name === "null/null/") return PLAIN;
    if (this.known.size > 1000) this.known.clear(); // a stream of random colours must not grow it for ever
    if (!this.known.has(name)) this.known.set(name, Object.freeze(style));
    return this.known.get(name);
  }
}

const MARKS = { 1: "b", 2: "d", 3: "i", 4: "u", 7: "r", 9: "s" };
const UNMARKS = { 22: "bd", 23: "i", 24: "u", 27: "r", 29: "s" };

/* 5;n is one of 256, 2;r;g;b is any; [colour, how many codes it took]. */
function longColour(codes, at) {
  if (codes[at] === 5) return [palette(codes[at + 1] ?? 0), 2];
  if (codes[at] === 2) return [`rgb(${codes.slice(at + 1, at + 4).map((n) => Math.min(n, 255)).join(" ")})`, 4];
  return [null, 1];
}

function palette(n) {
  if (n < 16) return n;
  if (n >= 232) return `rgb(${Array(3).fill(8 + 10 * (Math.min(n, 255) - 232)).join(" ")})`;
  const level = (step) => (step ? 55 + 40 * step : 0);
  return `rgb(${level(Math.floor((n - 16) / 36))} ${level(Math.floor((n - 16) / 6) % 6)} ${level((n - 16) % 6)})`;
}
