// Starts the viewer, whichever of its two packagings was found: the notebook's module, or the executable's script.

/** Plain http away from localhost has no randomUUID, and the viewer names its channels with it. */
crypto.randomUUID ??= () =>
  "10000000-1000-4000-8000-100000000000".replace(/[018]/g, (c) =>
    (+c ^ (crypto.getRandomValues(new Uint8Array(1))[0] & (15 >> (+c / 4)))).toString(16));

// The viewer logs a line for each message it receives when it thinks that somebody reads them.
if (!new URLSearchParams(location.search).has("debug")) console.debug = () => {};

const theme = () => (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark");
const options = () => ({ hide_welcome_screen: true, width: "100%", height: "100%", theme: theme() });

/**
 * @param {{base: string, script: string, kind: string}} assets
 * @param {HTMLElement} parent
 * @returns the viewer, ready: `open_channel(name)` has `send_rrd(bytes)` and `ready`, false once it has crashed; and whatever its version has
 */
export function startViewer(assets, parent) {
  return assets.kind === "notebook" ? startNotebook(assets, parent) : startExecutable(assets, parent);
}

/** On this machine a viewer is there in a second; elsewhere its own progress bar is worth more than a head start. */
const near = /^(localhost|127\.[0-9.]+|\[::1\])$/.test(location.hostname);

/**
 * Compiles the wasm while the script that will ask for it is still on its way: that script is handed the result, where it
 * asks for the same address. Elsewhere it gets the response, which it wraps to show progress.
 *
 * @returns gives the browser its own functions back
 */
function fetchEarly(url) {
  const { fetch } = window;
  const { compileStreaming } = WebAssembly;
  const early = fetch(url).then((response) => {
    if (near) Object.defineProperty(response, "body", { value: null }); // there is nothing to be wrapped
    return response;
  });
  window.fetch = (input, init) => ((input instanceof Request ? input.url : String(input)) === url ? early : fetch(input, init));
  if (near) {
    const module = compileStreaming(early);
    module.catch(() => {}); // who asks for it will hear of it
    WebAssembly.compileStreaming = async (source) => ((await source) === (await early) ? module : compileStreaming(source));
  }
  return () => {
    window.fetch = fetch;
    WebAssembly.compileStreaming = compileStreaming;
  };
}

/** Every version is ready when `start` has returned. Its event says so later, and lets a first, empty picture by. */
async function startNotebook(assets, parent) {
  const giveBack = fetchEarly(new URL(assets.base + "re_viewer_bg.wasm", location.href).href);
  try {
    const { WebViewer } = await import(assets.base + assets.script);
    const viewer = new WebViewer();
    await viewer.start(null, parent, options());
    return viewer;
  } finally {
    giveBack();
  }
}

/** The executable's script defines wasm_bindgen and no more; this gives it the notebook's shape. */
class ExecutableViewer {
  constructor(handle, canvas) {
    this.handle = handle;
    this.canvas = canvas;
    this.ready = true;
  }

  open_channel(name) {
    const id = crypto.randomUUID();
    const { handle } = this;
    handle.open_channel(id, name);
    return {
      get ready() {
        return !handle.has_panicked();
      },
      send_rrd: (data) => handle.send_rrd_to_channel(id, data),
      close: () => handle.close_channel(id),
    };
  }
}

async function startExecutable(assets, parent) {
  const module = WebAssembly.compileStreaming(fetch(assets.base + "re_viewer_bg.wasm"));
  module.catch(() => {});
  await new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = assets.base + assets.script;
    script.onload = resolve;
    script.onerror = () => reject(new Error("its script cannot be loaded"));
    document.head.append(script);
  });
  const canvas = document.createElement("canvas");
  canvas.style.cssText = "width:100%;height:100%;display:block";
  parent.append(canvas);
  await wasm_bindgen({ module_or_path: await module });
  const handle = new wasm_bindgen.WebHandle({ ...options(), enable_history: false, on_viewer_event: () => {} });
  await handle.start(canvas);
  return new ExecutableViewer(handle, canvas);
}
