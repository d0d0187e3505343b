"""Which recordings an output is fed with: what users say, and what that means for a stream.

    @live     every stream alive now and later        @latest   the newest recording      @all   all there are
    NAME      an application id, a recording id or a unique prefix of one
    /path     a .rrd file                              stream:ID one stream exactly (shims)
    run:TOKEN every stream of one `rrd run`, now and later

Rules: words are resolved once, when they are said; what they meant then is what is kept, over restarts too. Selectors
speak of recordings, logs hold streams: a stream of several recordings is filtered by store id, and a recording's
blueprint (same application) comes along.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from daemon.stream import RecordingKey, Stream
from daemon.wire.control import VerbError
from daemon.wire.logmsg import BLUEPRINT

STREAM = "stream:"
RUN = "run:"
FILE = "file:"
"""Ids of streams that are files read in place."""
MAX_CANDIDATES = 8
"""How many names an error lists."""


@dataclass(frozen=True)
class Selection:
    """A resolved choice.

    Attributes:
        text: What was said, for people.
        recordings: These recordings, whichever streams carry them.
        streams: These streams, whole.
        live_since: Every stream that had not ended at this moment (of `Hub.moment`), or None.
        runs: Every stream of these runs.
        within: Of the recordings, what streams of this run carry; empty, whichever streams carry them.
    """

    text: str
    recordings: frozenset[RecordingKey] = frozenset()
    streams: frozenset[str] = frozenset()
    live_since: float | None = None
    runs: frozenset[str] = frozenset()
    within: str = ""
    _apps: frozenset[str] = field(default=frozenset(), repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_apps", frozenset(key.application_id for key in self.recordings))

    @property
    def open_ended(self) -> bool:
        """Streams that do not exist yet may join."""
        return self.live_since is not None or bool(self.runs)

    def _all_of(self, stream: Stream) -> bool:
        if stream.id in self.streams or (stream.meta.run and stream.meta.run in self.runs):
            return True
        return (
            self.live_since is not None
            and stream.kind != "file"
            and (stream.ended_moment is None or stream.ended_moment >= self.live_since)
        )

    def _by_name(self, stream: Stream) -> bool:
        """Recordings of this stream are among those that are meant by their names."""
        if not self.recordings or (self.within and stream.meta.run != self.within):
            return False
        return stream.kind != "file"  # one that was named once is nobody's recording afterwards

    def takes(self, stream: Stream) -> bool:
        """Something of this stream is selected."""
        if self._all_of(stream):
            return True
        return self._by_name(stream) and any(key in self.recordings for key in stream.recordings)

    def whole(self, stream: Stream) -> bool:
        """All of this stream is selected, as far as it is known by now."""
        if self._all_of(stream):
            return True
        recordings = stream.recordings if self._by_name(stream) else {}
        return bool(recordings) and all(key in self.recordings for key in recordings)

    def stores(self, stream: Stream) -> set[bytes] | None:
        """The raw store ids that are selected of this stream; None is all of them."""
        if self.whole(stream):
            return None
        return {
            raw
            for raw, store in stream.keys.items()
            if (store.application_id in self._apps if store.kind == BLUEPRINT
                else (store.application_id, store.recording_id) in self.recordings)
        }

    def to_json(self) -> dict[str, Any]:
        """For the sinks' file."""
        return {
            "text": self.text,
            "recordings": sorted(list(key) for key in self.recordings),
            "streams": sorted(self.streams),
            "live_since": self.live_since,
            "runs": sorted(self.runs),
            "within": self.within,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Selection:
        """The same again.

        Raises:
            KeyError, TypeError: it is damaged.
        """
        return cls(
            str(found["text"]),
            frozenset(RecordingKey(str(app), str(recording)) for app, recording in found["recordings"]),
            frozenset(map(str, found["streams"])),
            found["live_since"],
            frozenset(map(str, found.get("runs") or ())),
            str(found.get("within") or ""),
        )


@dataclass(frozen=True)
class Recording:
    """A recording with all the streams that carry it, oldest first."""

    key: RecordingKey
    streams: tuple[Stream, ...]

    @property
    def live(self) -> bool:
        """A stream of it has no complete log yet."""
        return not all(stream.complete for stream in self.streams)

    @property
    def started_at(self) -> float:
        """When the first of its streams was opened, Unix seconds."""
        return min(stream.started_at for stream in self.streams)

    @property
    def newest_at(self) -> float:
        """When the last of its streams was opened, Unix seconds."""
        return max(stream.started_at for stream in self.streams)

    @property
    def ended_at(self) -> float | None:
        """When the last of its streams ended; None while it is live."""
        return None if self.live else max(stream.ended_at or 0.0 for stream in self.streams)

    @property
    def messages(self) -> int:
        """Messages in all its streams."""
        return sum(stream.recordings[self.key].messages for stream in self.streams)

    @property
    def bytes(self) -> int:
        """Bytes of those, with frame headers."""
        return sum(stream.recordings[self.key].bytes for stream in self.streams)

    @property
    def label(self) -> str:
        """`app/recording`, for people."""
        return self.key.label


def recordings_of(streams: Iterable[Stream]) -> list[Recording]:
    """All recordings in the spool, oldest first; files read in place are nobody's recordings."""
    found: dict[RecordingKey, list[Stream]] = {}
    for stream in streams:
        if stream.kind != "file":
            for key in stream.recordings:
                found.setdefault(key, []).append(stream)
    recordings = [Recording(key, tuple(carriers)) for key, carriers in found.items()]
    return sorted(recordings, key=lambda recording: recording.newest_at)


def resolve(terms: Sequence[str], streams: Mapping[str, Stream], now: float) -> Selection:
    """What `terms` mean now.

    Args:
        terms: As users say them; files must have been opened as streams of kind `file` before.
        streams: All streams by id.
        now: A moment of `Hub.moment`.

    Raises:
        VerbError: nothing fits, or several recordings do.
    """
    if not terms:
        raise VerbError("usage", "no recording was named", "say @live, @latest, @all or a recording's id")
    recordings = recordings_of(streams.values())
    keys: set[RecordingKey] = set()
    ids: set[str] = set()
    runs: set[str] = set()
    since: float | None = None
    names: _Names | None = None
    for term in terms:
        if term == "@live":
            since = now
        elif term == "@latest":
            if not recordings:
                raise nothing_here()
            keys.add(recordings[-1].key)
        elif term == "@all":
            if not recordings:
                raise nothing_here()
            keys |= {recording.key for recording in recordings}
        elif term.startswith(RUN):
            runs.add(term.removeprefix(RUN))
        elif term.startswith("@"):
            raise VerbError("usage", f"unknown selector {term}", "there are @live, @latest and @all")
        elif term.startswith((STREAM, FILE)):
            name = term.removeprefix(STREAM)
            if name not in streams:
                raise VerbError("not-found", f"no such stream: {name}", "rrd status lists the streams")
            ids.add(name)
        else:
            names = names or _Names(recordings)
            keys |= names.find(term)
    return Selection(" ".join(terms), frozenset(keys), frozenset(ids), since, frozenset(runs))


class _Names:
    """What recordings are called. A page's address may have hundreds of names: none is looked for among all of them."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self._recordings = recordings
        self._ids: dict[str, set[RecordingKey]] = {}
        self._applications: dict[str, set[RecordingKey]] = {}
        self._both: dict[str, set[RecordingKey]] = {}
        for key in (recording.key for recording in recordings):
            self._ids.setdefault(key.recording_id, set()).add(key)
            self._applications.setdefault(key.application_id, set()).add(key)
            self._both.setdefault(f"{key.application_id}/{key.recording_id}", set()).add(key)
        self._sorted = sorted(self._ids)

    def find(self, term: str) -> set[RecordingKey]:
        """The recordings that a name means.

        Raises:
            VerbError: none, or several that it does not mean together.
        """
        exact = self._ids.get(term, set())
        if len(exact) == 1:
            return exact
        app = self._applications.get(term)
        if app and not exact:
            return app
        fits = exact or self._both.get(term, set()) | self._beginning(term)
        if len(fits) == 1:
            return fits
        if fits:
            raise VerbError("ambiguous", f"{len(fits)} recordings are meant by {term}: {names_of(fits)}",
                            "write more of the recording's id, or application/recording")
        raise VerbError("not-found", f"no recording, application or file is called {term}",
                        _what_there_is(self._recordings))

    def _beginning(self, term: str) -> set[RecordingKey]:
        """Those whose id begins with this."""
        found: set[RecordingKey] = set()
        for name in itertools.islice(self._sorted, bisect.bisect_left(self._sorted, term), None):
            if not name.startswith(term):
                break
            found |= self._ids[name]
        return found


def default_recording(recordings: Sequence[Recording]) -> tuple[Recording, str]:
    """What `save` takes when nothing was said: the one live recording, else the newest.

    Returns:
        The recording, and a sentence that says which it is.

    Raises:
        VerbError: there is none, or several are live.
    """
    live = [recording for recording in recordings if recording.live]
    if len(live) > 1:
        raise VerbError("ambiguous", f"{len(live)} recordings are live: {names_of(r.key for r in live)}",
                        "name one, or say @latest or @all")
    if live:
        return live[0], f"the live recording {live[0].label}"
    if not recordings:
        raise nothing_here()
    return recordings[-1], f"the newest recording {recordings[-1].label}"


def nothing_here() -> VerbError:
    """There is no recording at all."""
    return VerbError("not-found", "there is no recording yet",
                     "log through rrd first: `import rrd; rrd.attach()` after rr.init(...)")


def names_of(keys: Iterable[RecordingKey]) -> str:
    """Recordings for people: some of their names, and how many there are besides."""
    names = sorted(key.label for key in keys)
    more = f" and {len(names) - MAX_CANDIDATES} more" if len(names) > MAX_CANDIDATES else ""
    return ", ".join(names[:MAX_CANDIDATES]) + more


def _what_there_is(recordings: Sequence[Recording]) -> str:
    if not recordings:
        return "there is no recording yet"
    newest = ", ".join(recording.label for recording in recordings[: -MAX_CANDIDATES - 1 : -1])
    return f"newest first there are: {newest}"
