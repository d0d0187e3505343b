// The viewer's page: loads the user's own Rerun viewer and feeds it.
//
//   loading -> history (one fetch: quick) -> live (WebSocket) -> ended
//                 ^            any loss -> away, then again from where it was
//
// For embedding and tests: window.rrdViewer is the viewer, window.rrd what the page knows; events `rrd` on document.
import { NO_TOKEN, bytes, count, dropToken } from "./common.js";
import { startViewer } from "./glue.js";

dropToken();

const config = JSON.parse(document.getElementById("config").textContent);
const rrd = (window.rrd = {
  state: "loading", // loading, history, live, ended, away, paused, failed
  resume: null, // where this page is: handed back to the server to go on
  lag: { messages: 0, bytes: 0 },
  received: 0, // bytes of data
  connections: 0,
  error: "",
  times: { start: performance.now() },
});

const HIDDEN_LIMIT = 64 << 20; // a hidden tab draws nothing, so what it is sent piles up in the viewer: then it pauses
const $ = (id) => document.getElementById(id);
let channel = null;
let hiddenBytes = 0;
let untaken = 0; // bytes that a hidden tab leaves where they are
let told = ["loading"]; // what the feed said last, also while the page is paused

// -- what is shown -------------------------------------------------------------------------------------------------

const TEXT = {
  loading: ["waiting", "loading the viewer"],
  history: ["waiting", "loading"],
  live: ["live", "live"],
  ended: ["", "finished"],
  away: ["waiting", "connection lost, trying again"],
  waiting: ["waiting", "waiting for data"],
  paused: ["waiting", "paused while hidden"],
  failed: ["error", "stopped"],
};

function show(state, detail = "") {
  rrd.state = state;
  rrd.error = detail;
  const [className, text] = TEXT[state];
  document.documentElement.dataset.state = state;
  $("state").className = "state " + className;
  $("state").textContent = $("state").title = detail ? `${text}: ${detail}` : text; // narrow pages cut the text
  showLag();
  document.dispatchEvent(new CustomEvent("rrd", { detail: { state, detail } }));
}

/** The same for what the feed says: a page that is paused shows it when it goes on. */
function tell(...what) {
  told = what;
  if (rrd.state !== "paused") show(...what);
}

function showLag() {
  const { messages, bytes: size } = rrd.lag;
  $("lag").textContent = size > 0 && rrd.state !== "ended" ? `${bytes(size)} behind (${count(messages)} messages)` : "";
}

const notices = new Map();
function notice(key, text) {
  if (notices.get(key) === text) return;
  notices.set(key, text);
  $("notice").textContent = [...notices.values()].join(" ");
  $("notice").hidden = false;
}

function fail(message, hint) {
  show("failed", "");
  const box = document.createElement("div");
  box.className = "message";
  const title = document.createElement("h1");
  title.textContent = message;
  const what = document.createElement("p");
  hint.split("`").forEach((part, number) => {
    const piece = document.createElement(number % 2 ? "code" : "span"); // what stands between backticks is to be typed
    piece.textContent = part;
    what.append(piece);
  });
  box.append(title, what);
  $("viewer").replaceChildren(box);
  rrd.error = message;
}

// -- data ----------------------------------------------------------------------------------------------------------

const known = new Set();
function checkVersion(block) {
  const [major, minor, patch] = [block[4], block[5], block[6]];
  const version = `${major}.${minor}.${patch}`;
  if (known.has(version)) return;
  known.add(version);
  const [, viewerMajor, viewerMinor] = [0, ...config.viewer.version];
  if (major === 0 && minor < 23) {
    notice("old", `Data of Rerun ${version} is too old for this viewer (0.23 is the oldest).`);
  } else if (major > viewerMajor || (major === viewerMajor && minor > viewerMinor)) {
    notice("new", `This data is of Rerun ${version}, the viewer is ${config.viewer.version.join(".")}: it may show it wrong. ` +
      `Where the daemon runs: pip install "rerun-sdk[notebook]==${version}", then reload.`);
  }
}

function data(block) {
  if (!rrd.times.first) rrd.times.first = performance.now();
  checkVersion(block);
  rrd.received += block.length;
  const { length } = block;
  try {
    channel.send_rrd(block);
  } catch (error) {
    return crashed(error);
  }
  if (document.hidden) hiddenBytes += length;
  if (hiddenBytes < HIDDEN_LIMIT) return worker.postMessage({ taken: length });
  untaken += length;
  if (rrd.state !== "paused") show("paused");
}

/** What a viewer that has crashed is sent goes nowhere, and what it shows is not what there is. */
function crashed(error) {
  console.error("the viewer has crashed", error);
  worker.terminate();
  show("failed", "the viewer has crashed: reload the page");
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  hiddenBytes = 0;
  if (rrd.state === "paused") show(...told);
  if (untaken) worker.postMessage({ taken: untaken });
  untaken = 0;
});

function state(message, live) {
  if (message.resume) rrd.resume = message.resume;
  if ("lag_bytes" in message) rrd.lag = { messages: message.lag_messages, bytes: message.lag_bytes };
  if (message.caught_up && !rrd.times.caughtUp) rrd.times.caughtUp = performance.now();
  rrd.live = message.live;
  if (live && !message.bulk) {
    tell(message.ended ? "ended" : rrd.received || message.live ? "live" : "waiting");
  }
  showLag();
}

const worker = new Worker("/static/feed.js", { type: "module" });
let finish = () => {};
let inbox = []; // until the viewer is ready

function heard(message) {
  if (rrd.state === "failed") return;
  if (!channel.ready) crashed(); // it drops what it is sent, and says nothing
  else if (message.block) data(message.block);
  else if (message.state) state(message.state, message.live);
  else if (message.begun) {
    rrd.connections += 1;
    if (told[0] !== "live") tell("history");
  } else finish(message);
}
worker.onmessage = ({ data: message }) => (inbox ? inbox.push(message) : heard(message));
worker.onerror = () => show("failed", "the page's own script cannot be loaded");

/** Ask for history or live data from where the page is; how that ended. */
const ask = (what) =>
  new Promise((resolve) => {
    finish = resolve;
    worker.postMessage({ [what]: JSON.stringify({ source: config.source, resume: rrd.resume }) });
  });

/** What a proxy says while nobody listens behind it, and whatever else may be over in a moment. */
const passing = (status) => status >= 500 || status === 408 || status === 429;

async function feed(first) {
  let pause = 100;
  for (let end = await first; ; end = await ask("history")) {
    if (end.over === "done") {
      pause = 100;
      end = await ask("live");
    }
    if (end.over === "bulk") continue;
    if (end.over === "refused" && end.status === 400 && rrd.resume) {
      rrd.resume = null; // from the beginning: what the viewer knows it knows by its ids
      tell("away");
    } else if (end.over === "refused" && end.status === 404) {
      tell("waiting", end.problem.error);
    } else if (end.over === "refused" && !passing(end.status)) {
      return show("failed", end.status === 403 ? NO_TOKEN : end.problem.error);
    } else if (told[0] !== "waiting") {
      tell("away", end.problem?.error);
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, 3000);
  }
}

// -- start ---------------------------------------------------------------------------------------------------------

async function main() {
  $("title").textContent = config.title;
  if (!config.viewer) return fail(config.problem.message, config.problem.hint);
  const first = ask("history"); // on its way while the viewer starts
  try {
    const viewer = (window.rrdViewer = await startViewer(config.viewer, $("viewer")));
    rrd.times.ready = performance.now();
    channel = viewer.open_channel("rrd");
  } catch (error) {
    console.error(error);
    rrd.error = String(error);
    return show("failed", "the viewer does not start in this browser");
  }
  for (const message of inbox) heard(message);
  inbox = null;
  await feed(first);
}

main();
