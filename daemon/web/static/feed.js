// Receives what a page is fed with, in a thread of its own: where pictures are drawn, each wait for the network would
// last until the next picture.
//
//   page -> here   {history: what is asked} | {live: what is asked} | {taken: bytes of blocks}
//   here -> page   {begun} · {block} · {state} ... and at the end {over: done | bulk | lost | refused, ...}
//
// Rule: only so many bytes lie between here and the page. Beyond that, an answer is not read on, and the server is asked
// to hold: what a page cannot take stays in the log.
import { blocks } from "./blocks.js";

const HISTORY_AHEAD = 32 << 20; // what a viewer takes in while it draws one picture, and some
const LIVE_AHEAD = 4 << 20;
let ahead = 0;
let goOn = () => {};

function pass(block) {
  ahead += block.length;
  postMessage({ block }, [block.buffer]);
}

async function history(body) {
  let answer;
  let whole = false;
  try {
    answer = await fetch("/stream", { method: "POST", body, headers: { "Content-Type": "application/json" } });
    if (!answer.ok) {
      const problem = await answer.json().catch(() => ({ error: `the server says ${answer.status}` }));
      return { over: "refused", status: answer.status, problem };
    }
    postMessage({ begun: true });
    const take = (block) => {
      pass(block);
      if (ahead > HISTORY_AHEAD) return new Promise((resolve) => (goOn = resolve));
    };
    await blocks(answer.body, take, (state) => {
      whole = state.caught_up || whole;
      postMessage({ state });
    });
  } catch {
    return { over: "lost" };
  }
  return { over: whole ? "done" : "lost" };
}

function live(body) {
  return new Promise((resolve) => {
    const socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/ws");
    socket.binaryType = "arraybuffer";
    let over = "lost";
    let held = false;
    goOn = () => {
      if (held) socket.send("go");
      held = false;
    };
    socket.onopen = () => socket.send(body);
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") {
        const state = JSON.parse(data);
        if (state.error) return socket.close(1000); // asking for history again says it better
        if (state.bulk) over = "bulk";
        return postMessage({ state, live: true });
      }
      pass(new Uint8Array(data));
      if (ahead > LIVE_AHEAD && !held) {
        held = true;
        socket.send("hold");
      }
    };
    socket.onclose = () => resolve({ over });
  });
}

onmessage = async ({ data }) => {
  if (data.taken) {
    ahead -= data.taken;
    if (ahead <= LIVE_AHEAD / 2) goOn();
    return;
  }
  const end = await (data.history ? history(data.history) : live(data.live));
  goOn = () => {};
  postMessage(end);
};
