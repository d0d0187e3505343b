"""`run`: outputs for whatever a program of `rrd run` logs, for as long as it runs."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path

import trio

from daemon.control.server import Call, perform
from daemon.runs import PORT, Run, file_sink_of, start_file
from daemon.selection import RUN
from daemon.sinks.file import FileSink, refuse_target
from daemon.sinks.runner import ACTIVE, describe
from daemon.stream import RecordingKey, Stream
from daemon.wire.control import Message, VerbError
from daemon.wire.rrd import FormatError

DRAIN_S = 10.0
"""How long a stream that brings nothing more may stay open after its program's end: it is somebody else's then."""


async def run(call: Call) -> Message:
    """Give outputs to the streams of a run, until `run_end` was said and all is delivered.

    Args of the verb: token (the value of RRD_RUN in the program's environment); port (answer Rerun's own); save (an
    absolute path; a second recording gets `-2` before its suffix, and so on), force; files ({recording: path}, when it
    is said again to another daemon); spawn, serve (true); connect (a URL).

    What the program saved by itself (`run_end` tells) is given to the same outputs when it has ended.

    Progress: first {ready, port, error}; then {file, recording}, {viewer}, {url}, {problem}, {warning}, when it is so.

    Returns:
        recordings: application_id, recording_id, messages, bytes, live (it goes on), file, saved (where the program
        wrote it by itself, or empty); problems.

    Raises:
        VerbError: the file is there already, or cannot be; the token is none.
    """
    token = call.text("token")
    if not token.isalnum():
        raise VerbError("usage", f"run: token must be letters and digits, found {token!r:.60}")
    outputs = _Outputs(call)
    outputs.check()
    runs = call.daemon.runs
    wanted = call.flag("port")
    async with runs.port() if wanted else contextlib.nullcontext("") as problem:
        current = runs.begin(token, call.client.pid)
        try:
            await call.progress({"ready": True, "port": PORT if wanted and not problem else 0, "error": problem})
            async with trio.open_nursery() as nursery:
                await _follow(call, current, outputs, nursery)
                nursery.cancel_scope.cancel()
        finally:
            runs.forget(current)
    return {"recordings": [_described(key, streams, outputs) for key, streams in current.recordings.items()]
            + outputs.saved, "problems": outputs.problems}


async def _follow(call: Call, current: Run, outputs: _Outputs, nursery: trio.Nursery) -> None:
    hub = call.daemon.hub
    seen = 0
    while True:
        shape = hub.shape
        for stream in current.streams[seen:]:
            nursery.start_soon(outputs.show, stream)
        seen = len(current.streams)
        await outputs.save(current)
        if current.ended.is_set():
            break
        await hub.wait_reshaped(shape)
    await _drain(call, current)
    await outputs.save(current)
    await outputs.take_in(current)
    with trio.move_on_after(DRAIN_S):
        for sink in outputs.sinks.values():
            if all(stream.complete for stream in sink.feed.streams()):
                await sink.done.wait()
    with trio.move_on_after(DRAIN_S):
        while outputs.busy:
            await hub.wait_change(hub.version)


async def _drain(call: Call, current: Run) -> None:
    """Wait until its streams are complete, or bring nothing more."""
    hub = call.daemon.hub
    seen: list[tuple[int, bool]] = []
    with trio.CancelScope() as quiet:
        while not all(stream.complete for stream in current.streams):
            found = [(stream.size, stream.ended) for stream in current.streams]
            if found != seen:  # what changes besides is others' business: they may log for days
                seen, quiet.deadline = found, trio.current_time() + DRAIN_S
            await hub.wait_change(hub.version)


class _Outputs:
    """What was asked for, and what has come of it."""

    def __init__(self, call: Call) -> None:
        self.call = call
        save = call.text("save", "")
        self.path = Path(os.path.normpath(save)) if save else None
        self.force = call.flag("force")
        self.sinks: dict[RecordingKey, FileSink] = {}
        self.files: dict[RecordingKey, str] = {}
        self.problems: list[str] = []
        self.saved: list[Message] = []
        self.busy = 0
        self._streams: dict[RecordingKey, int] = {}
        self._shown = False
        told = call.args.get("files")
        self._told = {str(name): str(path) for name, path in told.items()} if isinstance(told, dict) else {}
        """Files of the daemon before, by the label of their recording: what its slash parts cannot be told from it."""

    def check(self) -> None:
        """See that the file can be.

        Raises:
            VerbError: it cannot.
        """
        path = self.path
        if path is None:
            return
        problem = refuse_target(path) or ("" if path.is_absolute() else f"is not absolute: {path}")
        if problem:
            raise VerbError("refused", f"output {problem}")
        if not path.parent.is_dir():
            raise VerbError("failed", f"directory does not exist: {path.parent}", f"mkdir -p {path.parent}")
        if path.exists() and not self.force and os.fspath(path) not in self._told.values():
            raise VerbError("exists", f"file exists: {path}", "say --force to replace it, or choose another name")
        self._writes(path)

    def _writes(self, path: Path) -> FileSink | None:
        """The sink of this run that writes a file already: a daemon before has begun it.

        Raises:
            VerbError: another output is writing it.
        """
        sink = file_sink_of(self.call.daemon, path)
        if sink is not None and sink.selection.within != self.call.text("token"):
            raise VerbError("exists", f"sink {sink.id} is writing this file: {path}", f"rrd detach {sink.id} ends that")
        return sink

    async def save(self, current: Run) -> None:
        """Have a file for each recording; again when another stream of it comes after its file was complete."""
        if self.path is None:
            return
        for key, streams in current.recordings.items():
            sink = self.sinks.get(key)
            known = self._streams.get(key, 0)
            if known == len(streams) or (sink is not None and sink.state in ACTIVE):
                self._streams[key] = len(streams)
                continue
            self._streams[key] = len(streams)
            await self._save_one(current, key)

    async def _save_one(self, current: Run, key: RecordingKey) -> None:
        assert self.path is not None
        if key not in self.files and key.label in self._told:
            self.files[key] = self._told.pop(key.label)
        own = self.files.get(key)
        path = Path(own) if own else self._free()
        try:
            sink = self._writes(path) or start_file(
                self.call.daemon, key, path, force=self.force or own is not None, run=current.token)
        except OSError as error:
            await self._problem(f"cannot save to {path}: {describe(error)}")
            return
        except VerbError as error:
            await self._problem(f"{error.message}   ({error.hint})")
            return
        self.sinks[key], self.files[key] = sink, os.fspath(path)
        await self.call.progress({"file": os.fspath(path), "recording": key.label})

    def _free(self) -> Path:
        """The asked-for path, or with a number when another recording of the run has it."""
        assert self.path is not None
        path, number = self.path, 1
        taken = {*self.files.values(), *self._told.values()}
        while os.fspath(path) in taken or (number > 1 and path.exists() and not self.force):
            number += 1
            path = self.path.with_name(f"{self.path.stem}-{number}{self.path.suffix}")
        return path

    async def show(self, stream: Stream) -> None:
        """Have viewers show a stream; a page shows all of the run's."""
        first, self._shown = not self._shown, True
        await self._show({"stream": stream.id})
        if first and self.call.flag("serve"):
            await self._serve([f"{RUN}{stream.meta.run}"], first=True)

    async def take_in(self, current: Run) -> None:
        """Give files that the program saved by itself to the outputs, unless they have what is in them."""
        new = [path for path in current.saved if await self._take_in(current, path)]
        if new and self.call.flag("serve"):
            await self._serve([*([f"{RUN}{current.token}"] if current.streams else []), *new], first=not self._shown)

    async def _take_in(self, current: Run, path: str) -> bool:
        try:
            stream = await self.call.daemon.hub.open_file(Path(path))
        except (OSError, FormatError) as error:
            await self._problem(f"cannot read what the program saved: {error}: {path}")
            return False
        if stream.recordings.keys() <= current.recordings.keys():
            return False
        await self._show({"source": [path]})
        target = ""
        if self.path is not None and not (self.path.exists() and self.path.samefile(path)):
            free = os.fspath(self._free())
            if await self._say("save", {"path": free, "source": [path], "force": self.force, "wait": True}) is not None:
                target = free
        for key, stats in stream.recordings.items():
            self.files[key] = target
            self.saved.append({
                "application_id": key.application_id, "recording_id": key.recording_id, "messages": stats.messages,
                "bytes": stats.bytes, "live": False, "file": target, "saved": path,
            })
        return True

    async def _show(self, what: Message) -> None:
        if self.call.flag("spawn"):
            answer = await self._say("spawn", {**what, "headless": self.call.flag("headless")})
            if answer is not None:
                await self.call.progress({"viewer": answer["viewer"], "warning": answer["warning"]})
        if url := self.call.text("connect", ""):
            answer = await self._say("connect", {**what, "url": url})
            if answer is not None and answer["waiting"]:
                sink = answer["sink"]
                await self._problem(f"connect: {sink['last_error']}; it is tried again   (rrd detach {sink['id']})")
            elif answer is not None and answer["warning"]:
                await self.call.progress({"warning": answer["warning"]})

    async def _serve(self, source: list[str], *, first: bool) -> None:
        wish = {"source": source, "open": first and not self.call.flag("no_open")}
        answer = await self._say("serve", wish)
        if answer is not None:
            await self.call.progress({"url": answer["url"], "warning": answer["warning"]})

    async def _say(self, verb: str, args: Message) -> Message | None:
        """Say another verb; None when it failed, which is told."""
        self.busy += 1
        try:
            return await perform(replace(self.call, verb=verb, args=args, fds=[]))
        except VerbError as error:
            await self._problem(f"{verb}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
            return None
        finally:
            self.busy -= 1
            self.call.daemon.hub.changed()

    async def _problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)
            await self.call.progress({"problem": text})


def _described(key: RecordingKey, streams: list[Stream], outputs: _Outputs) -> Message:
    sink = outputs.sinks.get(key)
    if sink is not None and sink.last_error:
        outputs.problems.append(f"{sink.target}: {sink.last_error}")
    return {
        "application_id": key.application_id,
        "recording_id": key.recording_id,
        "messages": sum(stream.recordings[key].messages for stream in streams),
        "bytes": sum(stream.recordings[key].bytes for stream in streams),
        "live": not all(stream.complete for stream in streams),
        "file": outputs.files.get(key, ""),
        "saved": "",
    }
