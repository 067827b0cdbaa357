"use strict";
// Everything from the server enters the page as text, never as markup.
const $ = (id) => document.getElementById(id);
const KEY = "jsarag-api-key";
let latest = 0;
let searchAgain = false;  // a search was refused for want of the key

function element(tag, classes, text) {
  const made = document.createElement(tag);
  if (classes) made.className = classes;
  if (text !== undefined) made.textContent = text;
  return made;
}

function storedKey() {
  try { return sessionStorage.getItem(KEY) || ""; } catch { return ""; }
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (storedKey()) headers.Authorization = "Bearer " + storedKey();
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  let body = null;
  try { body = await response.json(); } catch { /* a proxy's error page */ }
  return { response, body };
}

function showProblem(title, detail) {
  const box = $("problem");
  box.replaceChildren(element("b", "", title), element("span", "", detail || ""));
  box.hidden = false;
}

function askForKey() {
  const wrong = storedKey() !== "";
  $("key-form").hidden = false;
  if (wrong) showProblem("The server refused this key.", "Check it and try again.");
  $("key").value = "";
  $("key").focus();
}

const TITLES = {
  400: "The request was not understood.", 413: "That is too long.",
  422: "The server cannot take that.", 429: "The server is busy.",
  500: "The server failed.", 503: "The server is not ready.",
};

function explain(response, body) {
  const wait = response.headers.get("Retry-After");
  const detail = (body && body.error) || response.statusText || "no explanation was sent";
  const again = wait && (response.status === 429 || response.status === 503);
  const title = TITLES[response.status] || "The server answered " + response.status + ".";
  showProblem(title, detail + (again ? " (try again in " + wait + " s)" : ""));
}

function fact(value, unit) {
  const span = element("span");
  span.append(element("b", "", value), " " + unit);
  return span;
}

async function loadInfo() {
  try {
    const { response, body } = await call("info");
    if (response.status === 401) { state("needs its key", "wait"); askForKey(); return; }
    if (!response.ok || !body) { explain(response, body); return; }
    $("k").max = Math.max(1, Math.min(body.limits.max_k, body.count));
    $("query").maxLength = body.limits.max_query_chars;
    const encoder = element("span", "", "encoder ");
    encoder.append(element("b", "", (body.encoder && body.encoder.model) || "unnamed"));
    $("facts").replaceChildren(
      $("dot"), fact(body.count.toLocaleString("en"), body.count === 1 ? "passage" : "passages"),
      fact(body.width, "numbers each"), fact("gen " + body.generation, ""), encoder,
    );
    await loadReady();
  } catch (error) { state("no connection", "down"); showProblem("No connection.", error.message); }
}

async function loadReady() {
  const { response, body } = await call("ready");
  if (response.ok) { state("ready", "ready"); return; }
  state((body && body.error) || "not ready", "wait");
  setTimeout(() => loadReady().catch(() => state("no connection", "down")), 1000);
}

function state(text, kind) {
  $("dot").textContent = text;
  $("dot").className = "dot " + kind;
}

const SVG = "http://www.w3.org/2000/svg";
function bar(share) {  // an attribute, because the policy forbids inline styles
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "bar");
  svg.setAttribute("aria-hidden", "true");
  for (const width of [1, share]) {
    const rect = document.createElementNS(SVG, "rect");
    rect.setAttribute("width", (100 * width).toFixed(1) + "%");
    rect.setAttribute("height", "100%");
    rect.setAttribute("rx", "2");
    svg.append(rect);
  }
  return svg;
}

function words(query) {
  const found = query.toLowerCase().match(/[\p{L}\p{N}]+/gu) || [];
  return new Set(found.filter((word) => word.length > 3));
}

function marked(node, text, wanted) {
  for (const piece of text.split(/([\p{L}\p{N}]+)/u)) {
    node.append(wanted.has(piece.toLowerCase()) ? element("mark", "", piece) : piece);
  }
  return node;
}

function hitOf(hit, top, bottom, wanted) {
  const item = element("li", "card hit");
  item.tabIndex = 0;
  const head = element("div", "head");
  if (hit.title) head.append(marked(element("span", "title"), hit.title, wanted));
  head.append(element("span", "id mono", hit.id), element("span", "score", hit.score.toFixed(4)));
  const content = element("div");
  const low = Math.min(0, bottom);  // the bar starts at 0, or at the worst score below it
  const share = top > low ? (hit.score - low) / (top - low) : 1;
  content.append(head, bar(share), marked(element("p", "text"), hit.text, wanted));
  if (typeof hit.meta.source === "string") {
    const line = Number.isInteger(hit.meta.line) ? ", line " + hit.meta.line : "";
    content.append(element("p", "id mono", hit.meta.source + line));
  }
  item.append(element("span", "rank", hit.rank), content);
  item.addEventListener("click", () => {
    if (!String(getSelection())) item.classList.toggle("open");
  });
  return item;
}

function show(body, query, roundTrip) {
  const hits = body.results[0];
  const top = hits.length ? hits[0].score : 0;
  const bottom = hits.length ? hits[hits.length - 1].score : 0;
  const wanted = words(query);
  $("hits").replaceChildren(...hits.map((hit) => hitOf(hit, top, bottom, wanted)));
  const t = body.timings_ms;
  const ms = (value) => (value < 10 ? value.toFixed(1) : Math.round(value)) + " ms";
  const parts = [
    hits.length + (hits.length === 1 ? " passage" : " passages"), "queue " + ms(t.queue),
    "encode " + ms(t.encode), "search " + ms(t.search), "total " + ms(t.total),
    "round trip " + ms(roundTrip),
  ];
  $("status").replaceChildren(...parts.map((part) => element("span", "", part)));
}

function showCurl(payload) {
  const quoted = "'" + JSON.stringify(payload).replaceAll("'", "'\\''") + "'";
  const key = storedKey() ? " \\\n  -H \"Authorization: Bearer $JSARAG_API_KEY\"" : "";
  $("curl").textContent = "curl -s " + new URL("v1/search", location.href) +
    " \\\n  -H 'Content-Type: application/json'" + key + " \\\n  -d " + quoted;
  $("request").hidden = false;
}

async function search() {
  const query = $("query").value.trim();
  if (!query || !$("ask").reportValidity()) return;
  const number = ++latest;
  const payload = { queries: query, k: Number($("k").value) };
  $("problem").hidden = true;
  $("go").disabled = true;
  try {
    const started = performance.now();
    const { response, body } = await call("v1/search", {
      method: "POST", body: JSON.stringify(payload),
      headers: { "Content-Type": "application/json" },
    });
    if (number !== latest) return;  // a newer search is on its way
    if (response.status === 401) { searchAgain = true; askForKey(); return; }
    if (!response.ok || !body) {
      $("hits").replaceChildren();
      $("status").replaceChildren();
      explain(response, body);
      return;
    }
    show(body, query, performance.now() - started);
    showCurl(payload);
    const place = "#" + new URLSearchParams({ q: query, k: payload.k });
    if (location.hash !== place) history.pushState(null, "", place);
  } catch (error) {
    if (number === latest) showProblem("No connection.", error.message);
  } finally {
    if (number === latest) $("go").disabled = false;
  }
}

function fromAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  if (Number(asked.get("k")) >= 1) $("k").value = asked.get("k");
  if (asked.get("q")) { $("query").value = asked.get("q"); search(); }
}

function clear() {
  latest++;  // what is under way no longer matters
  $("query").value = "";
  $("go").disabled = false;
  $("problem").hidden = true;
  $("request").hidden = true;
  $("hits").replaceChildren();
  $("status").replaceChildren();
  $("query").focus();
}

function move(by) {
  const items = [...$("hits").children];
  const at = items.indexOf(document.activeElement) + by;
  if (at < 0) $("query").focus();
  else if (at < items.length) items[at].focus();
}

document.addEventListener("keydown", (event) => {
  const at = document.activeElement;
  const typing = at instanceof HTMLInputElement;
  const onHit = at && at.classList.contains("hit");
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  if (event.key === "/" && !typing) { event.preventDefault(); $("query").focus(); $("query").select(); }
  else if (event.key === "Escape" && at !== $("key")) { event.preventDefault(); clear(); }
  else if (event.key === "Enter" && onHit) at.classList.toggle("open");
  else if (event.key === "ArrowDown" && (onHit || at === $("query"))) { event.preventDefault(); move(1); }
  else if (event.key === "ArrowUp" && onHit) { event.preventDefault(); move(-1); }
});
$("ask").addEventListener("submit", (event) => { event.preventDefault(); search(); });
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  try { sessionStorage.setItem(KEY, $("key").value.trim()); } catch { /* private mode */ }
  $("key-form").hidden = true;
  $("problem").hidden = true;
  $("query").focus();
  loadInfo();
  if (searchAgain) search();
  searchAgain = false;
});
window.addEventListener("popstate", fromAddress);
loadInfo();
fromAddress();
