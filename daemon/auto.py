"""What happens by itself: the `[[auto]]` rules of the settings, applied to recordings as they come.

    a stream comes ─> its recording is known ─> each rule that fits: save, spawn or connect; once for a recording

Rules: a recording is handled once by a rule, restarts of the daemon included (auto.json); more of it later, when its
file is complete, goes into another file rather than over the first; names that come from outside are made harmless, so
that no file leaves the directory that the rule names; what fails is logged, and fails alone.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from daemon.control.server import Call, Client, perform
from daemon.fence import Fence
from daemon.runs import start_file
from daemon.selection import recordings_of
from daemon.settings import Rule
from daemon.sinks.runner import ACTIVE, describe
from daemon.sinks.viewer import ViewerSink
from daemon.spool.log import read_json, write_atomically
from daemon.stream import RecordingKey, Stream
from daemon.wire.control import Message, VerbError

if TYPE_CHECKING:
    from daemon.app import Daemon

log = logging.getLogger("rrd.auto")

MAX_NAME = 100
"""Bytes of a name from outside that go into a file's name, which may have 255."""
ATTEMPTS = 1000
"""Names that are tried for one file."""


class Nobody(Client):
    """The client of verbs that the daemon says to itself.

    Args:
        pid: In whose place: a window opens where that program's user sits. 0: nobody's.
    """

    def __init__(self, pid: int = 0) -> None:
        self.pid = pid
        self.agent = "auto"
        self.streams = set()

    async def send(self, message: Message) -> None:
        """Nobody listens."""
        await trio.lowlevel.checkpoint()


class Auto:
    """Applies the rules, until cancelled."""

    def __init__(self, daemon: Daemon, state: Path) -> None:
        self._daemon = daemon
        self._state = state
        self._done: set[tuple[str, str, str]] = set()
        self._connected: set[str] = set()

    async def run(self) -> None:
        """Look at what is new whenever something is."""
        self._load()
        hub = self._daemon.hub
        while True:
            shape = hub.shape
            for rule in self._daemon.settings.auto:
                with Fence(f"auto rule {rule.describe()}"):
                    await self._apply(rule)
            await hub.wait_reshaped(shape)

    async def _apply(self, rule: Rule) -> None:
        if rule.connect and rule.application == "*":
            if rule.connect not in self._connected:
                self._connected.add(rule.connect)
                if not self._feeds(rule.connect):
                    self._daemon.nursery.start_soon(self._say, "connect", {"url": rule.connect, "source": ["@live"]})
            return
        name = rule.describe()
        for recording in recordings_of(self._daemon.hub.streams.values()):
            # Files and what ended before are nobody's news; a stream that has come and gone meanwhile is.
            for stream in recording.streams:
                mark = (name, stream.id, recording.key.recording_id)
                if mark in self._done or not fnmatch.fnmatchcase(recording.key.application_id, rule.application):
                    continue
                self._done.add(mark)
                self._save_state()
                await self._handle(rule, recording.key, stream)

    async def _handle(self, rule: Rule, key: RecordingKey, stream: Stream) -> None:
        if rule.save:
            if not self._saves(rule, key):
                self._save(rule, key, stream)
        elif stream.ended:
            return
        elif rule.connect:
            self._daemon.nursery.start_soon(self._say, "connect", {"url": rule.connect, "stream": stream.id})
        elif not any(isinstance(sink, ViewerSink) and sink.selection.takes(stream)
                     for sink in self._daemon.sinks.active()):
            self._daemon.nursery.start_soon(self._say, "spawn", {"stream": stream.id}, stream.pid or 0)
        await trio.lowlevel.checkpoint()

    def _saves(self, rule: Rule, key: RecordingKey) -> bool:
        """A sink of this rule is writing the recording still: it takes further streams by itself."""
        top = os.fspath(directory_of(rule.save))
        return any(sink.kind == "file" and sink.state in ACTIVE and sink.selection.recordings == frozenset([key])
                   and not sink.selection.within and sink.target.startswith(top)
                   for sink in self._daemon.sinks.active())

    def _save(self, rule: Rule, key: RecordingKey, stream: Stream) -> None:
        path = path_for(rule.save, key, stream)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.parent.resolve().is_relative_to(directory_of(rule.save).resolve()):
                log.error("auto: %s is a way out of %s", path.parent, directory_of(rule.save))
                return
            for number in range(1, ATTEMPTS):
                numbered = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
                try:
                    sink = start_file(self._daemon, key, numbered, force=False)
                except FileExistsError:
                    continue
                log.info("auto: %s saves %s/%s to %s", sink.id, key.application_id, key.recording_id, numbered)
                return
            log.error("auto: too many files are called like %s", path)
        except OSError as error:
            log.error("auto: cannot save %s/%s: %s: %s", key.application_id, key.recording_id, describe(error), path)

    def _feeds(self, url: str) -> bool:
        return any(isinstance(sink, ViewerSink) and sink.target == url and sink.selection.open_ended
                   for sink in self._daemon.sinks.active())

    async def _say(self, verb: str, args: Message, pid: int = 0) -> None:
        try:
            await perform(Call(self._daemon, Nobody(pid), 0, verb, args))
        except VerbError as error:
            log.error("auto: %s: %s; %s", verb, error.message, error.hint)
        else:
            log.info("auto: %s %s", verb, " ".join(map(str, args.values())))

    # -- over restarts -----------------------------------------------------------------------------------------------

    def _load(self) -> None:
        """What was handled. What had ended before there were rules is not news either."""
        try:
            self._done = {(str(rule), str(stream), str(name)) for rule, stream, name in read_json(self._state)}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError) as error:
            log.warning("auto: cannot read what was handled: %s", error)
        streams = self._daemon.hub.streams
        self._done = {mark for mark in self._done if mark[1] in streams}
        for stream in streams.values():
            if stream.ended:
                self._done |= {(rule.describe(), stream.id, key.recording_id)
                               for rule in self._daemon.settings.auto for key in stream.recordings}

    def _save_state(self) -> None:
        try:
            write_atomically(self._state, json.dumps(sorted(self._done)))
        except OSError as error:
            log.warning("auto: cannot keep what was handled: %s", describe(error))


def directory_of(template: str) -> Path:
    """The directory that no file of a rule leaves: what is before the first name in braces."""
    return Path(os.path.expanduser(template.split("{", 1)[0].rpartition("/")[0] or "/"))


def path_for(template: str, key: RecordingKey, stream: Stream) -> Path:
    """The file of a recording.

    Args:
        template: A path with {app}, {recording}, {date}, {time} and {program}.
        key: The recording.
        stream: The first stream of it.
    """
    started = time.localtime(stream.started_at)
    names = {
        "app": harmless(key.application_id),
        "recording": harmless(key.recording_id),
        "date": time.strftime("%Y-%m-%d", started),
        "time": time.strftime("%H%M%S", started),
        "program": harmless(stream.program),
    }
    return Path(re.sub(r"\{(\w+)\}", lambda match: names[match[1]], os.path.expanduser(template)))


def harmless(name: str) -> str:
    """A name from outside as part of a file's: no separators, no control characters, no dots at its beginning.

    Nothing that comes out is empty, `.` or `..`, or longer than MAX_NAME bytes.
    """
    kept = "".join(character if character.isprintable() and character not in '/\\:*?"<>|' else "_"
                   for character in name)
    kept = kept.encode(errors="replace")[:MAX_NAME].decode(errors="ignore").strip()
    return re.sub(r"^\.+", lambda dots: "_" * len(dots[0]), kept) or "_"
