// The list of recordings. Asks for changes with a request that waits for one; rows are kept, so focus and ticks stay.
import { NO_TOKEN, age, bytes, count, dropToken } from "./common.js";

dropToken();

const $ = (id) => document.getElementById(id);
const rows = new Map(); // name -> {tr, update, rate}
let listing = JSON.parse($("config").textContent);
let offline = ""; // why nothing new is heard

const LONGEST = 48 << 10; // an address: the server takes 64 kB with all headers, and cookies of others are among them

function cell(className, ...content) {
  const td = document.createElement("td");
  td.className = className;
  td.append(...content);
  return td;
}

function makeRow(recording) {
  const tick = document.createElement("input");
  tick.type = "checkbox";
  tick.setAttribute("aria-label", `select ${recording.name}`);
  tick.addEventListener("change", updateSelection);
  const open = document.createElement("a");
  open.href = "/view?source=" + encodeURIComponent(recording.name);
  open.textContent = recording.application_id || recording.recording_id;
  const detail = document.createElement("div");
  detail.className = "dim";
  const state = document.createElement("span");
  const save = document.createElement("a");
  save.textContent = "Download";
  save.setAttribute("aria-label", `download ${recording.name}`);
  const started = cell("", "");
  const messages = cell("number", "");
  const size = cell("number", "");
  const rate = cell("number", "");
  const sdk = cell("dim", "");
  const tr = document.createElement("tr");
  tr.append(cell("", tick), cell("name", open, detail), cell("", state), started, messages, size, rate, sdk, cell("number", save));
  let before = null;
  let rateText = "";
  const update = (now, seconds) => {
    detail.textContent = [now.application_id ? now.recording_id : "", now.program].filter(Boolean).join(" · ");
    state.className = "state" + (now.error ? " error" : now.live ? " live" : "");
    state.textContent = now.error ? "damaged" : now.live ? "live" : now.complete ? "finished" : "finishing";
    state.title = now.error;
    started.textContent = age(now.started_at);
    started.title = new Date(now.started_at * 1000).toLocaleString();
    messages.textContent = count(now.messages);
    size.textContent = bytes(now.bytes);
    if (before && seconds > 0.3) {
      const grown = (now.bytes - before.bytes) / seconds;
      rateText = now.live && grown > 0 ? bytes(grown) + "/s" : "";
    }
    before = now;
    rate.textContent = rateText;
    sdk.textContent = now.sdk;
    save.href = now.file + (now.complete ? "" : "?snapshot=1");
    save.title = now.complete ? "" : "what has been logged by now";
  };
  return { tr, tick, update, name: recording.name };
}

let drawn = 0;
function draw() {
  const now = performance.now();
  const seconds = drawn ? (now - drawn) / 1000 : 0;
  drawn = now;
  const body = $("rows");
  const names = new Set();
  let place = body.firstElementChild;
  for (const recording of listing.recordings) {
    names.add(recording.name);
    let row = rows.get(recording.name);
    if (!row) rows.set(recording.name, (row = makeRow(recording)));
    row.update(recording, seconds);
    if (row.tr === place) place = place.nextElementSibling;
    else body.insertBefore(row.tr, place);
  }
  for (const [name, row] of rows) {
    if (!names.has(name)) {
      row.tr.remove();
      rows.delete(name);
    }
  }
  $("list").hidden = !listing.recordings.length;
  $("empty").hidden = Boolean(listing.recordings.length);
  const live = listing.recordings.filter((recording) => recording.live).length;
  const hidden = listing.total - listing.recordings.length;
  $("summary").textContent =
    offline ||
    `${live} live, ${listing.total - live} finished` + (hidden > 0 ? `, the newest ${listing.recordings.length} are shown` : "");
  $("summary").className = offline ? "offline" : "dim";
  updateSelection();
}

function updateSelection() {
  const chosen = [...rows.values()].filter((row) => row.tick.checked);
  const href = "/view?" + chosen.map((row) => "source=" + encodeURIComponent(row.name)).join("&");
  const fits = href.length <= LONGEST;
  const open = $("open-selected");
  open.setAttribute("aria-disabled", String(!chosen.length || !fits));
  open.textContent = (fits ? "Open selected" : "Too many selected") + (chosen.length ? ` (${chosen.length})` : "");
  open.title = fits ? "" : "their names are too long for one address";
  if (chosen.length && fits) open.href = href;
  else open.removeAttribute("href");
  $("select-all").checked = chosen.length > 0 && chosen.length === rows.size;
}

$("select-all").addEventListener("change", (event) => {
  for (const row of rows.values()) row.tick.checked = event.target.checked;
  updateSelection();
});

async function follow() {
  let pause = 250;
  for (;;) {
    if (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
    try {
      const answer = await fetch("/api/recordings?since=" + (offline ? "" : listing.seen));
      if (!answer.ok) throw new Error(String(answer.status));
      listing = await answer.json();
      offline = "";
      pause = 250;
    } catch (error) {
      offline = error.message === "403" ? NO_TOKEN : "the daemon is away, trying again…";
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(pause * 2, 4000);
    }
    draw();
  }
}

draw();
follow();
