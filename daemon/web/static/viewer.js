// The viewer's page: loads the user's own Rerun viewer and feeds it.
//
//   loading -> history (one fetch: quick) -> live (WebSocket) -> ended
//                 ^            any loss -> away, then again from where it was
//
// For embedding and tests: window.rrdViewer is the viewer, window.rrd what the page knows; events `rrd` on document.
import { bytes, count, dropToken } from "./common.js";
import { blocks } from "./blocks.js";
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
let hiddenBytes = 0;
let channel = null;
let caughtUpOnce = false;

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
  $("state").textContent = detail ? `${text}: ${detail}` : text;
  showLag();
  document.dispatchEvent(new CustomEvent("rrd", { detail: { state, detail } }));
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
  const command = document.createElement("code");
  command.textContent = hint;
  what.append(command);
  box.append(title, what);
  $("viewer").replaceChildren(box);
  $("viewer").style.background = "var(--ground)";
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
  if (document.hidden) hiddenBytes += block.length;
  channel.send_rrd(block);
}

function state(message) {
  if (message.resume) rrd.resume = message.resume;
  if ("lag_bytes" in message) rrd.lag = { messages: message.lag_messages, bytes: message.lag_bytes };
  if (message.caught_up && !rrd.times.caughtUp) rrd.times.caughtUp = performance.now();
  rrd.live = message.live;
  showLag();
}

const asked = () => JSON.stringify({ source: config.source, resume: rrd.resume });

class Refused extends Error {} // asking again without being told otherwise would not help

const askHistory = () =>
  fetch("/stream", { method: "POST", body: asked(), headers: { "Content-Type": "application/json" } });

let early = null; // the first answer is on its way while the viewer starts

async function history() {
  const answer = await (early ?? askHistory());
  early = null;
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({ error: `the server says ${answer.status}` }));
    if (answer.status === 404) {
      show("waiting", problem.error);
      throw new Error("not there yet");
    }
    if (answer.status === 400 && rrd.resume) {
      rrd.resume = null; // from the beginning: what the viewer knows it knows by its ids
      throw new Error("again");
    }
    throw new Refused(answer.status === 403 ? "the address needs a new token: run `rrd serve`" : problem.error);
  }
  if (rrd.state !== "live") show("history");
  rrd.connections += 1;
  let whole = false;
  const take = async (block) => {
    data(block);
    if (document.hidden && hiddenBytes > HIDDEN_LIMIT) {
      show("paused"); // what is not read stays with the server
      await visible();
      hiddenBytes = 0;
      show("history");
    }
  };
  await blocks(answer.body, take, (message) => {
    state(message);
    whole = message.caught_up || whole;
  });
  if (!whole) throw new Error("cut");
}

function live() {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/ws");
    rrd.socket = socket;
    socket.binaryType = "arraybuffer";
    let silent = 0;
    const watch = setInterval(() => {
      if (document.hidden && hiddenBytes > HIDDEN_LIMIT) {
        show("paused");
        socket.close(1000);
      }
    }, 500);
    socket.onopen = () => socket.send(asked());
    socket.onmessage = ({ data: message }) => {
      if (typeof message !== "string") return data(new Uint8Array(message));
      const told = JSON.parse(message);
      if (told.error) return (silent = told.error), socket.close(1000);
      state(told);
      if (told.bulk) return (silent = "bulk");
      show(told.ended ? "ended" : rrd.received || told.live ? "live" : "waiting");
    };
    socket.onerror = () => {};
    socket.onclose = () => {
      clearInterval(watch);
      if (silent === "bulk" || rrd.state === "paused") resolve();
      else reject(new Error("lost"));
    };
  });
}

const visible = () =>
  new Promise((resolve) => {
    const check = () => document.hidden || (document.removeEventListener("visibilitychange", check), resolve());
    document.addEventListener("visibilitychange", check);
    check();
  });

async function feed() {
  let pause = 100;
  for (;;) {
    try {
      await history();
      pause = 100;
      hiddenBytes = 0;
      await live();
      if (rrd.state === "paused") await visible();
      hiddenBytes = 0;
    } catch (error) {
      if (error instanceof Refused) return show("failed", error.message);
      if (!["waiting"].includes(rrd.state)) show("away");
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(pause * 2, 3000);
    }
  }
}

// -- start ---------------------------------------------------------------------------------------------------------

async function main() {
  $("title").textContent = config.title;
  if (!config.viewer) return fail(config.problem.message, config.problem.hint);
  early = askHistory();
  early.catch(() => {}); // looked at when it is used
  try {
    const viewer = (window.rrdViewer = await startViewer(config.viewer, $("viewer")));
    rrd.times.ready = performance.now();
    channel = viewer.open_channel("rrd");
  } catch (error) {
    console.error(error);
    rrd.error = String(error);
    return show("failed", "the viewer does not start in this browser");
  }
  await feed();
}

main();
