/* Parts of a page that ask again: only what changed is touched, so scroll, selection, focus and what is typed stay.
   Also: times in the viewer's zone, a question before what cannot be undone, a word when the server is gone. */
"use strict";

// --- times ---------------------------------------------------------------------------------------------------------
const locale = document.documentElement.lang || "en";
const pad = (n) => String(n).padStart(2, "0");
const monthDay = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short" });
const whole = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "long" });

function momentText(at, style) {
  const now = new Date();
  const today = at.toDateString() === now.toDateString();
  const clock = `${pad(at.getHours())}:${pad(at.getMinutes())}` + (style === "seconds" ? `:${pad(at.getSeconds())}` : "");
  if (today && style !== "day") return clock;
  if (at.getFullYear() === now.getFullYear()) return `${monthDay.format(at)} ${clock}`;
  return `${monthDay.format(at)} ${at.getFullYear()}` + (style === "short" ? "" : ` ${clock}`);
}

function localise(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.getAttribute("datetime"));
    if (Number.isNaN(at.getTime())) continue;
    time.textContent = momentText(at, time.dataset.style || "short");
    time.title = whole.format(at);
  }
}

// --- patching: make one tree like another, touching only what differs --------------------------------------------------
const key = (node) => (node.nodeType === Node.ELEMENT_NODE && (node.id || node.dataset?.key)) || "";

function patch(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  if (old.dataset?.keep !== undefined || old.name === "csrfmiddlewaretoken") return;
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  patchChildren(old, fresh);
}

function patchChildren(parent, fresh) {
  const keyed = new Map();
  for (const child of parent.childNodes) if (key(child)) keyed.set(key(child), child);
  let at = parent.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const found = key(wanted) ? keyed.get(key(wanted)) : alike(at, wanted);
    if (!found || found.nodeName !== wanted.nodeName) {
      parent.insertBefore(wanted, at);
      continue;
    }
    if (found === at) at = at.nextSibling;
    else parent.insertBefore(found, at);
    patch(found, wanted);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function alike(node, wanted) {
  return node && !key(node) && node.nodeName === wanted.nodeName ? node : null;
}

htmx.defineExtension("patch", {
  isInlineSwap: (style) => style === "patch",
  handleSwap: (style, target, fragment) => {
    if (style !== "patch") return false;
    localise(fragment);
    patchChildren(target, fragment);
    document.dispatchEvent(new CustomEvent("patched", { detail: target }));
    return [];
  },
});

// --- asking: only while somebody looks ----------------------------------------------------------------------------------
let lastAnswer = new Date();

function showCut(isCut) {
  const cut = document.getElementById("cut");
  if (!cut || cut.hidden === !isCut) return;
  cut.querySelector("time").textContent = momentText(lastAnswer, "seconds");
  cut.hidden = !isCut;
  document.body.classList.toggle("is-cut", isCut);
}

document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden) event.preventDefault();
});
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful) lastAnswer = new Date();
  showCut(!event.detail.successful);
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) for (const part of document.querySelectorAll("[hx-get]")) htmx.trigger(part, "again");
});

// --- what cannot be undone asks first -------------------------------------------------------------------------------------
document.addEventListener("submit", (event) => {
  const form = event.target;
  const question = event.submitter?.dataset.sure;
  if (!question || form.dataset.sure === "yes") return;
  event.preventDefault();
  const dialog = document.getElementById("sure");
  dialog.querySelector("p").textContent = question;
  dialog.querySelector("[value=yes]").textContent = event.submitter.textContent;
  dialog.returnValue = "no";
  dialog.onclose = () => {
    if (dialog.returnValue !== "yes") return;
    form.dataset.sure = "yes";
    form.requestSubmit(event.submitter);
  };
  dialog.showModal();
});

// --- small things ---------------------------------------------------------------------------------------------------------
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.me[open]")) if (!menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", (event) => {
  const button = event.key === "Enter" && !event.isComposing && document.getElementById(event.target.dataset?.enter);
  if (button) {
    event.preventDefault(); // else the form's first button would be pressed
    button.click();
  }
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details.me[open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

document.addEventListener("DOMContentLoaded", () => {
  localise(document);
  for (const field of document.querySelectorAll("input[data-moment]")) {
    if (!/(Z|[+-]\d\d:\d\d)$/.test(field.dataset.moment)) continue; // as it was typed here
    const at = new Date(field.dataset.moment);
    field.value = new Date(at - at.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
  }
  for (const field of document.querySelectorAll("input[data-zone]")) field.value = Intl.DateTimeFormat().resolvedOptions().timeZone;
});
