"use strict";
// Answers are kept by sample key under the plan's digest: a page with more pairs of the same run goes on with them.
const data = JSON.parse(document.getElementById("data").textContent);
const store = `counterforge-labels:${data.digest}`;
const at = (id) => document.getElementById(id);
const fileName = `labels-${data.name}.csv`;
let state = { answers: {}, fingerprints: {}, history: [] };
let skipped = [];
let current = null;

function load() {
  try {
    const saved = JSON.parse(localStorage.getItem(store));
    if (saved && saved.answers && saved.fingerprints && Array.isArray(saved.history)) state = saved;
  } catch (error) {
    warn("This browser keeps no answers for this page: save the CSV before you close it.");
  }
}

function keep() {
  try {
    localStorage.setItem(store, JSON.stringify(state));
  } catch (error) {
    warn("This browser keeps no answers for this page: save the CSV before you close it.");
  }
}

function warn(text) {
  at("trouble").textContent = text;
  at("trouble").hidden = false;
}

function next() {
  const open = data.pairs.filter((pair) => !(pair.key in state.answers));
  const fresh = open.filter((pair) => !skipped.includes(pair.key));
  if (!fresh.length) skipped = [];
  return fresh[0] || open[0] || null;
}

function answer(label) {
  if (!current) return;
  state.answers[current.key] = label;
  state.fingerprints[current.key] = current.fingerprint;
  state.history.push(current.key);
  keep();
  show(next());
}

function undo() {
  const known = new Map(data.pairs.map((pair) => [pair.key, pair]));
  let key = state.history.pop();
  // Answers of another page of this run are not on this one, so they cannot be looked at again.
  while (key !== undefined && !known.has(key)) key = state.history.pop();
  if (key === undefined) return;
  delete state.answers[key];
  delete state.fingerprints[key];
  keep();
  show(known.get(key));
}

function skip() {
  if (!current) return;
  skipped.push(current.key);
  show(next());
}

function show(pair) {
  current = pair;
  at("pair").hidden = !pair;
  at("done").hidden = Boolean(pair);
  if (pair) {
    at("title").textContent = pair.title;
    at("instruction").textContent = pair.instruction ? `“${pair.instruction}”` : "";
    at("class").textContent = pair.class;
    at("caption").textContent = pair.caption;
    at("source").src = data.images[pair.source];
    at("source").alt = `Source: ${pair.class}`;
    at("edit").src = data.images[pair.key];
    at("edit").alt = `Edit: ${pair.caption || pair.title}`;
  } else {
    at("done-title").focus();
  }
  count();
}

function count() {
  const labels = data.pairs.map((pair) => state.answers[pair.key]).filter(Boolean);
  const good = labels.filter((label) => label === "good").length;
  const total = data.pairs.length;
  at("count").textContent = `${labels.length} of ${total} · ${good} good, ${labels.length - good} bad`;
  at("progress").max = total;
  at("progress").value = labels.length;
  at("good").disabled = at("bad").disabled = at("skip").disabled = !current;
  at("undo").disabled = !state.history.length;
  at("save").disabled = !Object.keys(state.answers).length;
}

function csv() {
  const lines = Object.keys(state.answers).sort().map((key) => `${key},${state.answers[key]},${state.fingerprints[key]}`);
  return ["key,label,fingerprint", ...lines].join("\n") + "\n";
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = fileName;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const keys = {
  ArrowRight: () => answer("good"), g: () => answer("good"), ArrowLeft: () => answer("bad"), b: () => answer("bad"),
  u: undo, Backspace: undo, s: skip, ArrowDown: skip,
};

document.addEventListener("keydown", (event) => {
  const isUndo = (event.ctrlKey || event.metaKey) && event.key === "z";
  if (event.altKey || ((event.ctrlKey || event.metaKey) && !isUndo)) return;
  const act = isUndo ? undo : keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act) return;
  event.preventDefault();
  // A key that is held down must not label everything.
  if (!event.repeat) act();
});
at("good").addEventListener("click", () => answer("good"));
at("bad").addEventListener("click", () => answer("bad"));
at("undo").addEventListener("click", undo);
at("skip").addEventListener("click", skip);
at("save").addEventListener("click", save);
at("file").textContent = fileName;
load();
show(next());
