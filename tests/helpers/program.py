"""Log numbered rows into a daemon's stream; print the stream's id, then rows.

    program.py SOCKET NAME RECORDING ROWS PAUSE IMAGE_BYTES SAVE
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time

import cbor2
import numpy as np
import rerun as rr


def main(path: str, name: str, recording: str, rows: int, pause: float, image: int, save: str) -> None:
    read, write = os.pipe2(os.O_CLOEXEC)
    rr.init(name, recording_id=recording)
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(path)

    def ask(number: int, verb: str, fds: tuple[int, ...] = (), **args: object) -> dict:
        body = cbor2.dumps({"id": number, "verb": verb, "args": args})
        socket.send_fds(peer, [struct.pack(">I", len(body)) + body], fds)
        while True:
            (length,) = struct.unpack(">I", peer.recv(4, socket.MSG_WAITALL))
            answer = cbor2.loads(peer.recv(length, socket.MSG_WAITALL))
            if answer.get("id") == number:
                return answer["ok"]

    ask(1, "hello", protocol=1, agent="program", pid=os.getpid())
    ids = {"application_id": name, "recording_id": recording}
    stream = ask(2, "open", (read,), kind="shim", sdk=rr.__version__, **ids)["stream"]
    rr.save(f"/proc/self/fd/{write}")
    if save:
        ask(3, "save", path=save, stream=stream)
    print(stream, flush=True)
    picture = np.zeros(image, np.uint8)
    random = np.random.default_rng(0)
    for row in range(rows):
        rr.set_time("frame", sequence=row) if hasattr(rr, "set_time") else rr.set_time_sequence("frame", row)
        rr.log("row", rr.TextLog(f"row {row}"))
        if image:
            picture[:1000] = random.integers(0, 255, 1000)
            rr.log("image", rr.EncodedImage(contents=picture.tobytes(), media_type="image/png"))
        if pause:
            time.sleep(pause)
        if row % 20 == 0:
            print(row, flush=True)
    rr.disconnect()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6]), sys.argv[7])
