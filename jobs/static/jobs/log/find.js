/* Searching the whole log on the server; each hit leads to its line. */
const MORE = "more";

class Find {
  constructor(form, list) {
    this.form = form;
    this.list = list;
    this.run = null;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.begin();
    });
    form.elements.q.addEventListener("search", () => form.elements.q.value || this.clear()); // the little cross
  }

  clear() {
    this.run = null;
    this.list.hidden = true;
    this.list.replaceChildren();
  }

  begin() {
    this.clear();
    const text = this.form.elements.q.value;
    if (!text.trim()) return;
    this.list.hidden = false;
    this.go(text, 0);
  }

  async go(text, from) {
    const run = (this.run = {});
    const state = document.getElementById("log-state");
    const query = new URLSearchParams({ attempt: state.dataset.attempt, q: text, from });
    let found = null;
    try {
      const answer = await fetch(`${this.form.dataset.find}?${query}`, { headers: { Accept: "application/json" } });
      found = answer.ok ? await answer.json() : null;
    } catch {
      // the page says that the server is away
    }
    if (this.run !== run) return;
    this.list.querySelector(`.${MORE}`)?.remove();
    for (const hit of found?.hits ?? []) this.list.append(row(hit));
    if (!found || found.next === null) {
      if (!this.list.childElementCount) this.list.append(note(this.form.dataset.none));
    } else if (found.hits.length || this.list.childElementCount) this.list.append(this.more(text, found.next));
    else this.go(text, found.next); // nothing yet in a long log: go on by ourselves
  }

  more(text, from) {
    const item = note("");
    item.className = MORE;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "plain";
    button.textContent = this.form.dataset.more;
    button.addEventListener("click", () => this.go(text, from));
    item.append(button);
    return item;
  }
}

function row({ line, before, match, after }) {
  const item = document.createElement("li");
  const link = document.createElement("a");
  link.href = `#L${line}`;
  const number = document.createElement("span");
  number.className = "num";
  number.textContent = line;
  const hit = document.createElement("mark");
  hit.textContent = match;
  const text = document.createElement("code");
  text.append(before, hit, after);
  link.append(number, text);
  item.append(link);
  return item;
}

function note(text) {
  const item = document.createElement("li");
  item.textContent = text;
  return item;
}

function begin() {
  const form = document.getElementById("log-find");
  const list = document.getElementById("log-found");
  if (form && list && !form.find) form.find = new Find(form, list);
}
begin();
document.addEventListener("patched", begin);
