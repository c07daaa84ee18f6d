/* Charts of a job: what it uses of its GPUs, and the numbers that it prints. Asked again while it runs and somebody looks. */
"use strict";

const EVERY_MS = 15000;
const SOON_MS = 1500; // a long log is read in several goes
const HEIGHT = 150;
const COLOURS = ["#2f86dd", "#e0782f", "#2a9d63", "#b552c8", "#c9a227", "#d1495b", "#2aa5b3", "#7d6be0"];
const pad = (n) => String(n).padStart(2, "0");
const clock = (at, seconds) => `${pad(at.getHours())}:${pad(at.getMinutes())}` + (seconds ? `:${pad(at.getSeconds())}` : "");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const short = (value) => {
  if (value == null) return "–";
  const size = Math.abs(value);
  return size && (size < 1e-3 || size >= 1e6) ? value.toExponential(1).replace(".0e", "e") : Number.parseFloat(value.toPrecision(4)).toString();
};

class Charts {
  constructor(box) {
    this.box = box;
    this.plots = new Map();
    this.known = "";
    this.timer = 0;
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
    new ResizeObserver(() => this.fit()).observe(box);
    this.look();
  }

  get state() {
    return document.getElementById("charts-state")?.dataset;
  }

  /* Ask for what is new; another attempt than before begins anew. */
  async look() {
    clearTimeout(this.timer);
    const state = this.state;
    if (!state || document.hidden) return;
    const which = `${state.job}/${state.attempt}`;
    if (which !== this.known) this.clear(which);
    const [samples, curves] = await Promise.all([ask(state.samples), state.curves ? ask(state.curves) : null]);
    if (which !== this.known) return this.look();
    if (samples) this.drawSamples(samples.series);
    if (curves) this.drawCurves(curves.curves);
    this.box.hidden = this.plots.size === 0;
    const more = (curves && !curves.complete) || this.state?.open === "yes";
    if (more || !samples) this.timer = setTimeout(() => this.look(), curves && !curves.complete ? SOON_MS : EVERY_MS);
  }

  clear(which) {
    for (const one of this.plots.values()) one.figure.remove();
    this.plots.clear();
    this.known = which;
  }

  drawSamples(series) {
    if (!series.some((one) => one.utilization_pct.length > 1 || one.memory_mib.length > 1)) return;
    const { xs, columns } = aligned(series);
    const names = series.map((one) => `GPU ${one.index}`);
    const words = this.box.dataset;
    const memory = columns.map((of) => of.memory.map((mib) => (mib == null ? null : mib / 1024)));
    this.draw("memory", words.memory, "GiB", names, [xs, ...memory], { time: words.time, from: 0 });
    this.draw("use", words.use, "%", names, [xs, ...columns.map((of) => of.percent)], { time: words.time, from: 0, to: 100 });
  }

  drawCurves(curves) {
    for (const curve of curves) {
      if (curve.points.length < 2) continue;
      const xs = curve.points.map((_, i) => (i + 1) * curve.every);
      const told = `${this.box.dataset.last} ${short(curve.last)} · ${this.box.dataset.least} ${short(curve.min)} · ${this.box.dataset.most} ${short(curve.max)}`;
      this.draw(`curve ${curve.name}`, curve.name, "", [curve.name], [xs, curve.points], { told });
    }
  }

  draw(key, title, unit, names, data, how) {
    let one = this.plots.get(key);
    if (one && one.names.join() !== names.join()) {
      one.figure.remove();
      one = undefined;
    }
    if (!one) {
      one = { figure: figure(title), names, unit, how };
      this.box.append(one.figure);
      this.plots.set(key, one);
      one.data = data;
      this.plot(one);
    } else {
      one.data = data;
      one.plot.setData(data);
    }
    one.figure.querySelector("figcaption span").textContent = how.told ?? summary(names, data.slice(1), unit, this.box.dataset);
  }

  plot(one) {
    one.plot?.destroy();
    one.plot = new uPlot(options(one, this.width(one)), one.data, one.figure.querySelector("div"));
  }

  width(one) {
    return Math.max(200, Math.floor(one.figure.querySelector("div").clientWidth));
  }

  fit() {
    for (const one of this.plots.values()) {
      const width = this.width(one);
      if (Math.abs(one.plot.width - width) > 1) one.plot.setSize({ width, height: HEIGHT });
    }
  }

  redraw() {
    for (const one of this.plots.values()) this.plot(one);
  }
}

async function ask(url) {
  try {
    const answer = await fetch(url, { headers: { Accept: "application/json" } });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null; // the server is away: the page says so
  }
}

/* One axis of time for all devices: series may have begun at other moments, and have other steps. */
function aligned(series) {
  const step = Math.max(...series.map((one) => one.step_s));
  const begins = series.map((one) => Date.parse(one.began_at) / 1000);
  const first = Math.min(...begins);
  const count = Math.max(...series.map((one, i) => Math.ceil((begins[i] - first + one.memory_mib.length * one.step_s) / step)));
  const xs = Array.from({ length: count }, (_, i) => first + i * step);
  const columns = series.map((one, i) => {
    const of = { memory: new Array(count).fill(null), percent: new Array(count).fill(null) };
    const most = (list, at, value) => value != null && (list[at] = Math.max(list[at] ?? value, value));
    for (let j = 0; j < one.memory_mib.length; j++) {
      const at = Math.min(count - 1, Math.floor((begins[i] - first + j * one.step_s) / step));
      most(of.memory, at, one.memory_mib[j]);
      most(of.percent, at, one.utilization_pct[j]);
    }
    return of;
  });
  return { xs, columns };
}

function figure(title) {
  const made = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const name = document.createElement("b");
  name.textContent = title;
  caption.append(name, document.createElement("span"));
  const place = document.createElement("div");
  place.setAttribute("aria-hidden", "true"); // the caption says it in words
  made.append(caption, place);
  return made;
}

function summary(names, columns, unit, words) {
  return columns
    .map((column, i) => {
      const known = column.filter((value) => value != null);
      if (!known.length) return "";
      const mean = known.reduce((a, b) => a + b, 0) / known.length;
      const said = `${words.mean} ${mean.toFixed(unit === "%" ? 0 : 1)} ${unit}, ${words.most} ${Math.max(...known).toFixed(unit === "%" ? 0 : 1)} ${unit}`;
      return names.length > 1 ? `${names[i]}: ${said}` : said;
    })
    .filter(Boolean)
    .join(" · ");
}

function options({ names, unit, how }, width) {
  const ink = css("--ink-3");
  const grid = { stroke: css("--line"), width: 1 };
  const axis = { stroke: ink, grid, ticks: grid, font: "11px system-ui, sans-serif" };
  return {
    width,
    height: HEIGHT,
    cursor: { y: false, points: { size: 6 } },
    legend: { show: names.length > 1 || !how.told, live: true },
    scales: { x: { time: Boolean(how.time) }, y: { range: (u, low, high) => range(low, high, how) } },
    axes: [
      { ...axis, size: 28, values: how.time ? (u, ticks) => ticks.map((at) => clock(new Date(at * 1000), u.scales.x.max - u.scales.x.min < 600)) : undefined },
      { ...axis, size: 44, values: (u, ticks) => ticks.map(short) },
    ],
    series: [
      { label: how.time ?? " ", value: (u, at) => (at == null ? "" : how.time ? clock(new Date(at * 1000), true) : String(Math.round(at))) },
      ...names.map((label, i) => ({
        label,
        stroke: COLOURS[i % COLOURS.length],
        width: 1.5,
        points: { show: false },
        value: (u, value) => (value == null ? "–" : `${short(value)} ${unit}`.trim()),
      })),
    ],
  };
}

function range(low, high, how) {
  if (low == null || high == null) return [0, 1];
  const bottom = how.from ?? low;
  const top = how.to ?? high;
  const room = (top - bottom || Math.abs(top) || 1) * 0.06;
  return [how.from ?? bottom - room, how.to ?? top + room];
}

function begin() {
  const box = document.getElementById("charts");
  if (box && !box.charts) box.charts = new Charts(box);
  else if (box?.charts && box.charts.known && box.charts.known !== `${box.charts.state?.job}/${box.charts.state?.attempt}`) box.charts.look();
}
begin();
document.addEventListener("patched", begin); // another attempt may have started
