/* The log of a job's page: its end first, then live over one stream that is closed whenever nobody looks. */
import { Terminal } from "./terminal.js";
import { LogView } from "./view.js";

const TAIL = 128 * 1024;
const BLOCK = 256 * 1024;
const NEAR_END_PX = 30;
const INPUT_MS = 1000; // a scroll this soon after wheel, key or finger is the reader's own
const REOPEN_MS = 3000;
const WIDE = window.matchMedia("(min-width: 641px)");

class Log {
  constructor(pane, tools, state) {
    this.pane = pane;
    this.view = new LogView(pane);
    this.read(state);
    this.follow = true;
    this.lastInput = 0;
    this.tools(tools);
    this.listen();
    this.start();
  }

  // --- which log -------------------------------------------------------------------------------------------------
  read(state) {
    this.base = state.dataset.base;
    this.lines = state.dataset.lines;
    this.attempt = state.dataset.attempt;
    this.open = state.dataset.open === "yes";
    this.size = Number(state.dataset.size);
  }

  /* The page asked again: another attempt runs now, or this one is over. */
  patched() {
    const state = document.getElementById("log-state");
    if (!state) return;
    const other = state.dataset.attempt !== this.attempt;
    const was = this.end;
    this.read(state);
    if (other) {
      history.replaceState(null, "", location.pathname + location.search);
      this.start();
    } else {
      if (!this.open && !this.stream && !this.detached && this.size > was) this.connect();
      this.quiet();
    }
  }

  // --- loading ---------------------------------------------------------------------------------------------------
  async start(line = lineOf(location.hash)) {
    this.disconnect();
    const run = (this.run = {}); // what was begun for another log or place is dropped when it arrives
    this.terminal = new Terminal();
    this.detached = false;
    let begin = Math.max(0, this.size - TAIL);
    if (line) begin = Math.min(begin, (await this.ask({ line: Math.max(1, line - 20) }))?.offset ?? begin);
    const limit = line && begin < this.size - TAIL ? BLOCK : this.size - begin;
    let blocks;
    try {
      blocks = this.size ? await this.fetchAcross(begin, limit) : [{ text: "", begin: 0, end: 0 }];
    } catch {
      return this.run === run && this.later(() => this.start(line));
    }
    if (this.run !== run) return;
    this.view.clear();
    this.begin = blocks[0].begin;
    this.end = blocks.at(-1).end;
    this.detached = this.end < this.size;
    this.early();
    this.terminal.feed(blocks[0].text);
    for (const block of blocks.slice(1)) {
      this.gap(block.begin - blocks[0].end);
      this.terminal.feed(block.text);
    }
    this.follow = !line && !this.detached;
    this.flush();
    this.quiet();
    if (this.begin === 0) this.view.number(1);
    else {
      const told = await this.ask({ offset: this.begin });
      if (this.run !== run) return;
      if (told && !this.view.droppedAbove) this.view.number(told.line);
    }
    if (line) this.jump(line);
    if (!this.detached) this.connect();
    else this.atEnd();
  }

  /* One block, or where the middle of the log was cut out inside it, what is before and what is behind. */
  async fetchAcross(begin, limit) {
    const block = await this.fetch(begin, limit);
    const left = begin + limit - block.end;
    if (!this.cut || block.end !== this.cut.from || left <= 0) return [block];
    return [block, await this.fetch(this.cut.from, left)];
  }

  /* Bytes of the log as text, from the beginning of a line on, to the end of a character. It begins later where `begin` was
     cut out, and ends before a cut. */
  async fetch(begin, limit) {
    const answer = await fetch(`${this.base}?attempt=${this.attempt}&offset=${begin}&limit=${limit}`, { credentials: "same-origin" });
    if (!answer.ok) throw new Error(`${answer.status}`);
    this.cut = cutOf(answer.headers.get("X-Log-Cut"));
    const at = Number(answer.headers.get("X-Log-Offset") ?? begin);
    let bytes = new Uint8Array(await answer.arrayBuffer());
    bytes = bytes.subarray(0, Math.min(bytes.length, limit));
    const whole = at + bytes.length;
    const end = whole === this.cut?.from ? whole : whole - unfinished(bytes);
    const skipped = at && at !== this.cut?.to ? lineStart(bytes) : 0;
    const text = new TextDecoder().decode(bytes.subarray(skipped, end - at));
    return { text, begin: at + skipped, end };
  }

  /* One line for what was cut out; nothing can be written over it. */
  gap(count) {
    this.terminal.mark(this.gapText(count));
    this.draw();
    this.terminal = new Terminal();
  }

  gapText(count) {
    return this.pane.dataset.cut.replace("{count}", count.toLocaleString("en-US"));
  }

  async ask(question) {
    try {
      const answer = await fetch(`${this.lines}?${new URLSearchParams({ attempt: this.attempt, ...question })}`);
      return answer.ok ? await answer.json() : null;
    } catch {
      return null; // numbers are missing, the log is not
    }
  }

  async earlier() {
    const run = this.run;
    if (this.view.droppedAbove && this.view.first !== null) {
      this.begin = (await this.ask({ line: this.view.first }))?.offset ?? this.begin;
      this.view.droppedAbove = false;
    }
    const { cut } = this;
    const behind = cut && cut.from < this.begin && this.begin <= cut.to;
    const until = behind ? cut.from : this.begin;
    const from = Math.max(0, until - BLOCK, cut && until > cut.to ? cut.to : 0);
    let block;
    try {
      block = await this.fetch(from, until - from);
    } catch {
      return;
    }
    if (this.run !== run) return;
    const terminal = new Terminal();
    terminal.feed(block.text);
    if (behind) terminal.mark(this.gapText(this.begin - until));
    const rows = terminal.take().fresh;
    if (!behind && block.text.endsWith("\n")) rows.pop();
    this.begin = block.begin;
    this.follow = false;
    this.view.prepend(rows);
    if (this.begin === 0) this.view.number(1);
    if (this.view.dropBottom()) {
      this.detached = true;
      this.disconnect();
      this.atEnd();
    }
    this.early();
    this.buttons();
  }

  // --- live ------------------------------------------------------------------------------------------------------
  connect() {
    if (this.stream || this.detached || document.hidden) return;
    if (!this.open && this.end >= this.size) return;
    const stream = new EventSource(`${this.base}stream/?attempt=${this.attempt}&offset=${this.end}`);
    this.stream = stream;
    stream.addEventListener("log", (event) => {
      this.end = Number(event.lastEventId);
      this.terminal.feed(JSON.parse(event.data));
      this.soon();
    });
    stream.addEventListener("cut", (event) => {
      this.cut = JSON.parse(event.data);
      this.end = this.cut.to;
      this.gap(this.cut.to - this.cut.from);
      this.soon();
    });
    stream.addEventListener("end", () => {
      this.disconnect();
      this.open = false;
      this.quiet();
      htmx.trigger("#live", "again"); // the sentence on top is out of date now
    });
    stream.addEventListener("error", () => {
      if (stream.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
      this.disconnect();
      this.later(() => this.connect());
    });
  }

  disconnect() {
    this.stream?.close();
    this.stream = null;
  }

  later(what) {
    clearTimeout(this.timer);
    this.timer = setTimeout(what, REOPEN_MS);
  }

  // --- drawing ---------------------------------------------------------------------------------------------------
  soon() {
    this.frame ??= requestAnimationFrame(() => this.flush());
  }

  flush() {
    this.frame = null;
    this.draw();
    if (this.view.droppedAbove) this.early();
    if (this.follow) this.pane.scrollTop = this.pane.scrollHeight;
    this.buttons();
    if (this.end > 0) this.pane.querySelector(".quiet")?.remove();
  }

  draw() {
    const { fresh, dirty } = this.terminal.take();
    this.view.append(fresh);
    const made = new Set(fresh); // drawn just now
    this.view.update([...dirty].filter((row) => !made.has(row)));
  }

  quiet() {
    if (this.end > 0) return;
    const words = this.open ? this.pane.dataset.quiet : this.pane.dataset.gone;
    const told = this.pane.querySelector(".quiet");
    if (told) {
      if (told.textContent !== words) told.textContent = words;
      return;
    }
    const note = document.createElement("p");
    note.className = "quiet";
    note.textContent = words;
    this.pane.replaceChildren(note);
    this.view.chunks = [];
    this.view.count = 0;
    this.terminal = new Terminal();
  }

  early() {
    const needed = this.begin > 0 || this.view.droppedAbove;
    const there = this.pane.querySelector(".early.top");
    if (needed && !there) this.pane.prepend(this.button("top", this.pane.dataset.early, () => this.earlier()));
    if (!needed) there?.remove();
  }

  atEnd() {
    if (!this.pane.querySelector(".early.end")) this.pane.append(this.button("end", this.pane.dataset.later, () => this.toEnd()));
  }

  async toEnd() {
    history.replaceState(null, "", location.pathname + location.search);
    await this.start(null);
  }

  button(where, text, act) {
    const holder = document.createElement("p");
    holder.className = `early ${where}`;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", act);
    holder.append(button);
    return holder;
  }

  // --- tools -----------------------------------------------------------------------------------------------------
  tools(place) {
    const make = (text, act) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.addEventListener("click", act);
      place.append(button);
      return button;
    };
    this.followButton = make(place.dataset.follow, () => {
      if (this.detached) return this.toEnd();
      this.follow = !this.follow;
      this.flush();
    });
    this.wrapButton = make(place.dataset.wrap, () => this.wrap(!this.pane.classList.contains("wrap")));
    this.hitButton = make(place.dataset.oom, () => this.view.lastHit?.scrollIntoView({ block: "center" }));
    this.hitButton.className = "hitlink";
    this.wrap((stored("log-wrap") ?? (WIDE.matches ? "no" : "yes")) === "yes");
    this.buttons();
  }

  wrap(on) {
    this.pane.classList.toggle("wrap", on);
    store("log-wrap", on ? "yes" : "no");
    this.wrapButton.setAttribute("aria-pressed", on);
    if (this.follow) this.pane.scrollTop = this.pane.scrollHeight;
  }

  buttons() {
    this.followButton.setAttribute("aria-pressed", this.follow && !this.detached);
    this.hitButton.hidden = !this.view.lastHit?.isConnected;
  }

  jump(line) {
    document.getElementById(`L${line}`)?.scrollIntoView({ block: "center" });
  }

  listen() {
    const reader = () => (this.lastInput = Date.now());
    for (const kind of ["wheel", "touchmove", "keydown", "pointerdown"]) this.pane.addEventListener(kind, reader, { passive: true });
    this.pane.addEventListener("scroll", () => {
      const atEnd = this.pane.scrollTop + this.pane.clientHeight >= this.pane.scrollHeight - NEAR_END_PX;
      const was = this.follow;
      if (atEnd && !this.detached) this.follow = true;
      else if (Date.now() - this.lastInput < INPUT_MS) this.follow = false;
      if (was !== this.follow) this.buttons();
    }, { passive: true });
    document.addEventListener("patched", () => this.patched());
    document.addEventListener("visibilitychange", () => (document.hidden ? this.disconnect() : this.connect()));
    window.addEventListener("pagehide", () => this.disconnect());
    window.addEventListener("pageshow", (event) => event.persisted && this.connect());
    window.addEventListener("hashchange", () => {
      const line = lineOf(location.hash);
      if (!line) return;
      this.follow = false;
      if (document.getElementById(`L${line}`)) this.buttons();
      else this.start(line);
    });
  }
}

/* "from-to" of X-Log-Cut. */
function cutOf(header) {
  const [, from, to] = /^([0-9]+)-([0-9]+)$/.exec(header ?? "") ?? [];
  return to ? { from: Number(from), to: Number(to) } : null;
}

const lineOf = (hash) => Number(/^#L([0-9]{1,12})$/.exec(hash)?.[1]) || null;

/* Where the first whole line begins; in a line of progress bars alone, after the first return. */
function lineStart(bytes) {
  const feed = bytes.indexOf(10);
  return (feed >= 0 ? feed : bytes.indexOf(13)) + 1;
}

/* How many bytes at the end are the beginning of a UTF-8 character. */
function unfinished(bytes) {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back];
    if (byte >= 0xc0) return back < (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2) ? back : 0;
    if (byte < 0x80) return 0;
  }
  return 0;
}

function stored(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function store(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // a browser that keeps nothing only forgets the choice
  }
}

let log = null;
function begin() {
  const pane = document.getElementById("log");
  const state = document.getElementById("log-state");
  if (pane && state && pane !== log?.pane) log = new Log(pane, document.getElementById("log-tools"), state);
}
begin();
document.addEventListener("patched", begin); // the first attempt may start while somebody looks
