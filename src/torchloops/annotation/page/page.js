"use strict";
// The labelling page. The server decides everything: each answer comes back with what to show next.

const MANY_CLASSES = 16;
const SMALL_PICTURE = 96; // pixels; such a picture is enlarged without smoothing
const HEARTBEAT = 20000; // milliseconds; the server gives a picture to somebody else after 60 seconds
const POLL = 1000;

const $ = (id) => document.getElementById(id);
const token = () => Math.random().toString(36).slice(2, 10) + Date.now().toString(36);

let session = sessionStorage.getItem("session") || token();
let state = null;
let shown = null; // the sample on the screen
let changing = null; // an earlier sample whose answer is being changed
let busy = false;
let guessing = false;
let began = 0;
let timer = 0;

// A duplicated tab brings the session of the first one with it: the newer one takes a new session.
const tab = token();
const tabs = new BroadcastChannel("labelling");
tabs.onmessage = ({ data }) => {
  if (data.tab === tab || data.session !== session) return;
  if (data.asks) tabs.postMessage({ session, tab });
  else { session = token(); sessionStorage.setItem("session", session); refresh(); }
};
sessionStorage.setItem("session", session);
tabs.postMessage({ session, tab, asks: true });

const nameField = $("annotator");
const given = new URLSearchParams(location.search).get("name");
nameField.value = given || localStorage.getItem("annotator") || "person-" + token().slice(0, 4);
const saveName = () => localStorage.setItem("annotator", nameField.value.trim());
saveName();
nameField.addEventListener("change", () => {
  if (!nameField.value.trim()) nameField.value = localStorage.getItem("annotator");
  saveName();
  refresh();
});

async function call(address, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ session, annotator: nameField.value.trim(), ...body }),
  };
  const response = await fetch(address, options);
  const text = await response.text();
  let answer = {};
  try { answer = JSON.parse(text); } catch { answer = { problem: text }; }
  if (!response.ok) throw new Error(answer.problem || `The server answered ${response.status}.`);
  return answer;
}

function tell(message) {
  $("problem").textContent = message || "";
  $("problem").hidden = !message;
}

async function send(address, body, what) {
  if (busy) return;
  busy = true;
  setButtons(false);
  try {
    const answer = await call(address, body);
    changing = null;
    tell("");
    show(answer);
  } catch (error) {
    const gone = error instanceof TypeError;
    tell(`${what} was not saved: ${gone ? "the server does not answer. Start it again; this page goes on by itself." : error.message}`);
  } finally {
    busy = false;
    setButtons(true);
    schedule();
  }
}

async function refresh() {
  if (busy) return;
  busy = true;
  try {
    const values = new URLSearchParams({ session, annotator: nameField.value.trim() });
    show(await call(`api/state?${values}`));
    tell("");
  } catch (error) {
    const ended = state && state.status.phase === "finished";
    if (!ended) tell(error instanceof TypeError ? "The server does not answer. Nothing is lost; this page goes on when it is back." : error.message);
  } finally {
    busy = false;
    schedule();
  }
}

function schedule() {
  clearTimeout(timer);
  const asking = state && state.next.length && $("problem").hidden;
  timer = setTimeout(refresh, asking ? HEARTBEAT : POLL);
}

const current = () => changing || (state && state.next[0]) || null;

function decide(action, label) {
  const query = current();
  if (!query || busy) return;
  const seconds = (performance.now() - began) / 1000;
  send("api/answer", { sample: query.sample, action, label: label === undefined ? null : label, seconds }, "Your answer");
}

const undo = () => send("api/undo", {}, "The undo");

// showing

function show(next) {
  state = next;
  const asked = state.n_asked, round = state.round === null ? 0 : state.round;
  const place = state.next.length ? Math.min(state.n_decided + 1, asked) : state.n_decided;
  $("progress").textContent = asked
    ? `round ${round} - ${place} of ${asked} - ${state.n_labelled} labelled`
    : `${state.n_labelled} labelled`;
  document.title = state.next.length ? `${place} of ${asked} - Labelling` : "Labelling";
  const query = current();
  $("question").hidden = !query;
  $("waiting").hidden = Boolean(query);
  if (query) showQuestion(query); else showWaiting();
  showLatest();
  schedule();
}

function showQuestion(query) {
  const isNew = shown !== query.sample;
  shown = query.sample;
  $("notice").hidden = !changing;
  $("notice").textContent = changing ? "You are changing an earlier answer. Escape goes back." : "";
  if (isNew) {
    began = performance.now();
    $("broken").hidden = true;
    $("picture").hidden = false;
    $("picture").src = `picture/${query.sample}`;
    $("filter").value = "";
  }
  for (const later of state.next.slice(1)) new Image().src = `picture/${later.sample}`;
  showClasses();
  showGuess();
  $("add").hidden = !state.may_add;
}

function showClasses() {
  const many = state.classes.length > MANY_CLASSES;
  const wanted = many ? $("filter").value.trim().toLowerCase() : "";
  $("filter").hidden = !many;
  $("classes").classList.toggle("many", many);
  $("classes").replaceChildren(...state.classes
    .filter(({ name }) => name.toLowerCase().includes(wanted))
    .map(({ name, key }) => {
      const button = document.createElement("button");
      button.type = "button";
      if (key) button.append(keyCap(key));
      button.append(name);
      button.addEventListener("click", () => decide("label", name));
      return button;
    }));
}

function keyCap(key) {
  const cap = document.createElement("kbd");
  cap.textContent = key.toUpperCase();
  return cap;
}

function showGuess() {
  const query = current();
  $("show-guess").setAttribute("aria-pressed", String(guessing));
  $("guess").hidden = !guessing;
  $("guess").textContent = query && query.guess ? `The model would say: ${query.guess}` : "The model says nothing yet.";
}

function showLatest() {
  $("none-yet").hidden = state.latest.length > 0;
  $("latest").replaceChildren(...state.latest.map((event) => {
    const item = document.createElement("li"), button = document.createElement("button"), image = new Image();
    const said = event.action === "label" ? event.label : event.action === "skip" ? "skipped" : "flagged";
    image.src = `picture/${event.sample}`;
    image.alt = "";
    button.type = "button";
    button.append(image, said);
    button.setAttribute("aria-label", `${said}: change this answer`);
    button.addEventListener("click", () => { changing = { sample: event.sample, guess: null }; show(state); });
    item.append(button);
    return item;
  }));
}

function showWaiting() {
  shown = null;
  const { phase, seconds_left: left } = state.status;
  const soon = left === undefined || left === null ? "" : ` This takes about ${duration(left)} more.`;
  const headline = {
    training: "The model trains", asking: "The model looks at the pool", finished: "The study is over",
  }[phase] || (state.n_asked ? "All questions are answered" : "Nothing has been asked yet");
  const next = {
    training: `It learns from ${state.n_labelled} labelled pictures.${soon} Then the next questions come here by themselves.`,
    asking: "It looks for the pictures whose labels help it most. They come here by themselves.",
    finished: "The report and the model are in the run folder. You can close this page.",
  }[phase] || (state.next_command ? `Go on with the run: ${state.next_command}` : "The next questions come here by themselves.");
  $("headline").textContent = headline;
  $("what-next").textContent = next;
  $("undo-waiting").hidden = !state.latest.length || phase === "finished";
  showCurve(state.status.curve || [], state.status.metric || "score");
}

function duration(seconds) {
  return seconds < 90 ? `${Math.max(Math.round(seconds), 1)} s` : `${Math.round(seconds / 60)} minutes`;
}

function showCurve(points, metric) {
  $("curve").hidden = points.length === 0;
  if (!points.length) return;
  const width = 480, height = 240, left = 56, bottom = 40, top = 14, right = 16;
  const most = Math.max(...points.map(([labels]) => labels), 1);
  const x = (labels) => left + (width - left - right) * labels / most;
  const y = (score) => height - bottom - (height - bottom - top) * Math.min(Math.max(score, 0), 1);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  const title = drawn("title", {});
  const last = points[points.length - 1];
  title.textContent = `${metric} against the number of labels; the last is ${(100 * last[1]).toFixed(1)} % with ${last[0]} labels`;
  svg.append(title, drawn("path", { class: "axis", d: `M${left} ${top}V${height - bottom}H${width - right}` }));
  for (const score of [0, 0.5, 1]) svg.append(text(`${100 * score} %`, left - 8, y(score) + 4, "end"));
  for (const labels of [0, most]) svg.append(text(String(labels), x(labels), height - bottom + 18, "middle"));
  svg.append(text("labels", (left + width - right) / 2, height - 6, "middle"));
  svg.append(text(metric, left + 6, top + 4, "start"));
  svg.append(drawn("path", { class: "line", d: "M" + points.map(([labels, score]) => `${x(labels)} ${y(score)}`).join("L") }));
  for (const [labels, score] of points) svg.append(drawn("circle", { class: "point", cx: x(labels), cy: y(score), r: 4 }));
  $("curve").replaceChildren(svg);
}

function drawn(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function text(words, x, y, anchor) {
  const element = drawn("text", { x, y, "text-anchor": anchor });
  element.textContent = words;
  return element;
}

function setButtons(enabled) {
  for (const button of document.querySelectorAll("button")) button.disabled = !enabled;
}

// keys and buttons

$("picture").addEventListener("load", () => {
  const { naturalWidth: width, naturalHeight: height } = $("picture");
  $("picture").classList.toggle("small", Math.max(width, height) < SMALL_PICTURE);
});
$("picture").addEventListener("error", async () => {
  $("picture").hidden = true;
  $("broken").hidden = false;
  try {
    await call(`picture/${shown}`);
  } catch (error) {
    $("broken").textContent = error.message;
  }
});
$("skip").addEventListener("click", () => decide("skip"));
$("flag").addEventListener("click", () => decide("flag"));
$("later").addEventListener("click", () => decide("later"));
$("undo").addEventListener("click", undo);
$("undo-waiting").addEventListener("click", undo);
$("show-guess").addEventListener("click", toggleGuess);
$("show-keys").addEventListener("click", toggleKeys);
$("filter").addEventListener("input", showClasses);
$("add").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("new-class").value;
  send("api/class", { name }, "The class").then(() => { if ($("problem").hidden) $("new-class").value = ""; });
});

function toggleGuess() { guessing = !guessing; showGuess(); }

function toggleKeys() {
  $("keys").hidden = !$("keys").hidden;
  $("show-keys").setAttribute("aria-expanded", String(!$("keys").hidden));
}

const COMMANDS = {
  " ": () => decide("skip"), f: () => decide("flag"), l: () => decide("later"), backspace: undo,
  g: toggleGuess, h: toggleKeys, "/": () => $("filter").focus(),
  escape: () => { if (changing) { changing = null; show(state); } },
};

document.addEventListener("keydown", (event) => {
  const key = event.key.toLowerCase();
  const typing = event.target instanceof HTMLInputElement;
  if (typing) {
    if (key === "escape") event.target.blur();
    if (key === "enter" && event.target === $("filter")) $("classes").querySelector("button")?.click();
    if (key === "enter" && event.target !== $("new-class")) event.target.blur();
    return;
  }
  if (event.repeat || event.altKey || event.metaKey && key !== "z") return;
  if ((event.ctrlKey || event.metaKey) && key === "z") { event.preventDefault(); undo(); return; }
  if (event.ctrlKey) return;
  if (key === " " && event.target instanceof HTMLButtonElement && !event.target.closest("#classes, #actions")) return;
  const chosen = state && state.classes.find((known) => known.key === key);
  if (COMMANDS[key]) { event.preventDefault(); COMMANDS[key](); }
  else if (chosen && current()) { event.preventDefault(); decide("label", chosen.name); }
});

refresh();
