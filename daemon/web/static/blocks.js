// Takes the answer of /stream apart: kind u32 LE · length u32 LE · body. Each body is put together exactly once.

const DATA = 1;

/**
 * @param {ReadableStream<Uint8Array>} stream
 * @param {(block: Uint8Array) => Promise<void> | void} onData stream header and whole frames; no more is read before its promise
 * @param {(state: object) => void} onState
 */
export async function blocks(stream, onData, onState) {
  const reader = stream.getReader();
  const head = new DataView(new ArrayBuffer(8));
  let have = 0;
  let body = null;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    let at = 0;
    while (at < value.length) {
      if (body === null) {
        while (have < 8 && at < value.length) head.setUint8(have++, value[at++]);
        if (have < 8) break;
        body = new Uint8Array(head.getUint32(4, true));
        have = 0;
        if (!body.length) body = null;
        continue;
      }
      const take = Math.min(body.length - have, value.length - at);
      body.set(value.subarray(at, at + take), have);
      have += take;
      at += take;
      if (have === body.length) {
        const whole = body;
        body = null;
        have = 0;
        if (head.getUint32(0, true) === DATA) await onData(whole);
        else onState(JSON.parse(new TextDecoder().decode(whole)));
      }
    }
  }
}
