from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from daemon import descriptors
from daemon.app import KEEPER_LOST, _listeners, process_name
from daemon.keeper import EXIT_CONFIG
from daemon.processes import process_started
from daemon.settings import Settings, config_path
from daemon.stream import UNKNOWN, Stream
from tests.conftest import Home
from tests.daemon.conftest import Core, append, completed, ended, make_core, make_hub, opened, real
from tests.helpers import frames
from tests.helpers.frames import arrow, numbered, stream

DATA = stream(*real(range(5)))


@pytest.fixture
def program() -> Iterator[subprocess.Popen[bytes]]:
    """One that runs."""
    with subprocess.Popen(["sleep", "600"]) as one:
        yield one
        one.kill()


async def over(core: Core) -> int | None:
    """Its exit status."""
    with trio.fail_after(30):
        await core.ended.wait()
    return core.status


class TestUpAndDown:
    async def test_ready_is_said_when_verbs_are_heard(self, core: Core) -> None:
        assert core.keeper.told[0] == "READY=1"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(core.listener.getsockname())
        assert core.daemon.pumps == {}

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_told_to_stop(self, core: Core, number: signal.Signals) -> None:
        """Clients hear of it, so that they do not start another."""
        core.daemon.server.clients.add(core.client)
        os.kill(os.getpid(), number)
        assert await over(core) == 0
        assert core.client.got == [{"event": "stopping", "data": {}}]
        assert core.keeper.told[-1] == "STOPPING=1"

    async def test_settings_are_read_again(self, core: Core, caplog: pytest.LogCaptureFixture) -> None:
        path = config_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("spool_max_bytes = 12345678\n")
        shape = core.hub.shape
        os.kill(os.getpid(), signal.SIGHUP)
        with trio.fail_after(30):
            while core.daemon.settings.spool_max_bytes != 12345678:
                await core.hub.wait_reshaped(shape)
        path.write_text("spool_max_bytes = maybe\n")
        os.kill(os.getpid(), signal.SIGHUP)
        with trio.fail_after(30):
            while "the old settings stay" not in caplog.text:
                await trio.lowlevel.checkpoint()
        assert core.daemon.settings.spool_max_bytes == 12345678

    async def test_the_keeper_is_gone(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        core = make_core(home, monkeypatch)
        alive, keeper = os.pipe()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(core.run, (descriptors.ALIVE, alive))
            await core.keeper.ready.wait()
            os.close(keeper)
            assert await over(core) == KEEPER_LOST
        os.close(alive)

    async def test_a_keeper_that_does_not_listen_is_no_trouble(
        self, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        core = make_core(home, monkeypatch)

        def deaf(*_: str, **__: object) -> None:
            core.keeper.ready.set()
            raise ConnectionRefusedError(111, "Connection refused")

        monkeypatch.setattr(core.keeper, "tell", deaf)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(core.run)
            await core.keeper.ready.wait()
            read, write = os.pipe()
            name = (await core.say("open", kind="stdin", fds=[read]))["stream"]
            os.write(write, DATA)
            os.close(write)
            await completed(core.hub, core.hub.streams[name])
            await core.say("stop")
            assert await over(core) == 0

    def test_a_socket_is_needed(self) -> None:
        with pytest.raises(SystemExit, match="no socket was handed over"):
            _listeners([(descriptors.ALIVE, 1), (f"{descriptors.STREAM_PREFIX}a", 2)])
        ours, other = socket.socketpair()
        (found,) = _listeners([("rrd.socket", ours.detach())])  # systemd's name for it
        with other, found:
            assert not found.getblocking()


class TestTakeUp:
    """The streams of the daemon before."""

    async def again(self, core: Core, nursery: trio.Nursery, *pipes: tuple[str, int]) -> None:
        core.daemon.hub.load()
        nursery.start_soon(core.run, *[(descriptors.STREAM_PREFIX + name, fd) for name, fd in pipes])
        await core.keeper.ready.wait()

    def before(self, core: Core, data: bytes, **about: object) -> Stream:
        """A stream that was live when its daemon died."""
        hub = make_hub(core.hub.directory)
        one = opened(hub, data, **about)
        one.close()
        return one

    async def test_one_whose_pipe_was_kept(
        self, home: Home, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        core = make_core(home, monkeypatch)
        old = self.before(core, DATA[:500])
        read, write = os.pipe()
        os.write(write, DATA[500:])
        await self.again(core, nursery, (old.id, read))
        one = core.hub.streams[old.id]
        assert not one.ended
        assert await core.say("sync", streams=[one.id]) == {"messages": 6, "bytes": len(DATA)}
        os.close(write)
        await completed(core.hub, one)
        assert frames.frames_of(one.path.read_bytes()) == frames.payloads(real(range(5)))
        assert core.keeper.told[-2:] == ["FDSTOREREMOVE=1", f"FDNAME=stream-{one.id}"]
        nursery.cancel_scope.cancel()

    async def test_one_whose_description_is_lost(
        self, home: Home, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        core = make_core(home, monkeypatch)
        old = self.before(core, DATA[:500])
        old.path.with_suffix(".json").unlink()
        read, write = os.pipe()
        await self.again(core, nursery, (old.id, read))
        one = core.hub.streams[old.id]
        assert (one.kind, one.ended, one.ended_at) == (UNKNOWN, False, None)
        os.write(write, DATA[500:])
        os.close(write)
        await completed(core.hub, one)
        assert one.messages == 6
        nursery.cancel_scope.cancel()

    async def test_those_that_nobody_brings_again_end(
        self, home: Home, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, program: subprocess.Popen[bytes]
    ) -> None:
        core = make_core(home, monkeypatch)
        dead = self.before(core, DATA, kind="shim", pid=program.pid, pid_started=1.0)  # another's pid by now
        piped = self.before(core, DATA[:-5], kind="stdin")
        lives = self.before(
            core, DATA, kind="shim", pid=program.pid, pid_started=process_started(program.pid))
        read, write = os.pipe()
        await self.again(core, nursery, ("20260101-000000-abcdef", read))
        with pytest.raises(BrokenPipeError):
            os.write(write, b"nobody's")  # a pipe that belongs to no log is given back
        os.close(write)
        assert core.keeper.told[:2] == ["FDSTOREREMOVE=1", "FDNAME=stream-20260101-000000-abcdef"]
        for name in (dead.id, piped.id):
            await completed(core.hub, core.hub.streams[name])
            assert core.hub.streams[name].meta.reason == "ended while there was no daemon"
        one = core.hub.streams[lives.id]
        assert not one.ended  # its program will bring the pipe
        program.kill()
        await completed(core.hub, one)
        assert one.meta.reason == "the program has ended"
        nursery.cancel_scope.cancel()

    async def test_long_logs_take_long(
        self, home: Home, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """systemd is asked to wait for as long as they are read, and no longer."""
        core = make_core(home, monkeypatch)
        self.before(core, DATA, kind="stdin")
        asked = trio.Event()

        async def ask_for_time(*_: object) -> None:
            asked.set()
            await trio.sleep_forever()

        async def take_up(_: Stream) -> None:
            await asked.wait()

        monkeypatch.setattr("daemon.app.ask_for_time", ask_for_time)
        monkeypatch.setattr(core.hub, "take_up", take_up)
        with trio.fail_after(30):
            await self.again(core, nursery)
        nursery.cancel_scope.cancel()

    async def test_outputs_go_on(
        self, home: Home, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        first = make_core(home, monkeypatch)
        out = tmp_path / "a.rrd"
        read, write = os.pipe()
        kept = os.dup(read)  # a keeper would
        async with trio.open_nursery() as running:
            running.start_soon(first.run)
            await first.keeper.ready.wait()
            name = (await first.say("open", kind="stdin", fds=[read]))["stream"]
            os.write(write, DATA[:500])
            await first.say("sync", streams=[name])
            sink = (await first.say("save", path=str(out), stream=name, copy=True))["sink"]
            running.cancel_scope.cancel()  # killed
        first.hub.streams[name].close()
        (home.path / "control.sock").unlink()
        second = make_core(home, monkeypatch)
        await self.again(second, nursery, (name, kept))
        os.write(write, DATA[500:])
        os.close(write)
        (again,) = second.daemon.sinks.active()
        assert again.id == sink["id"]
        with trio.fail_after(30):
            await again.done.wait()
        assert out.read_bytes() == second.hub.streams[name].path.read_bytes()
        nursery.cancel_scope.cancel()


def no_such_call(pid: int) -> int:
    """An old kernel; a sandbox says EPERM instead."""
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


@pytest.fixture(params=["kernel", "python"])
def no_pidfd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptors of processes: the kernel has none, or Python was built where there were none."""
    if request.param == "kernel":
        monkeypatch.setattr(os, "pidfd_open", no_such_call)
    else:
        monkeypatch.delattr(os, "pidfd_open")


@pytest.mark.usefixtures("no_pidfd")
class TestWithoutPidfd:
    """Nothing tells the end of a program, so nothing must be taken for it."""

    async def test_a_program_streams_to_its_end(self, core: Core) -> None:
        read, write = os.pipe()
        core.client.pid = os.getpid()
        one = core.hub.streams[(await core.say("open", kind="shim", fds=[read]))["stream"]]
        for part in (DATA[:500], DATA[500:]):
            await trio.testing.wait_all_tasks_blocked()
            assert not one.ended
            os.write(write, part)
            await core.say("sync", streams=[one.id])
        os.close(write)
        await completed(core.hub, one)
        assert (one.meta.reason, one.messages) == ("end of file", 6)

    async def test_one_that_has_ended(
        self, home: Home, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As far as /proc says so: a forked child may hold the pipe."""
        core = make_core(home, monkeypatch)
        old = opened(make_hub(core.hub.directory), DATA[:500], kind="shim", pid=os.getpid(), pid_started=1.0)
        old.close()
        core.daemon.hub.load()
        read, write = os.pipe()
        nursery.start_soon(core.run, (descriptors.STREAM_PREFIX + old.id, read))
        await core.keeper.ready.wait()
        await completed(core.hub, core.hub.streams[old.id])
        assert core.hub.streams[old.id].meta.reason == "the program has ended"
        os.close(write)
        nursery.cancel_scope.cancel()

    async def test_one_whose_pipe_nobody_kept(
        self, home: Home, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, program: subprocess.Popen[bytes]
    ) -> None:
        monkeypatch.setattr("daemon.app.LOOK_S", 0.01)
        core = make_core(home, monkeypatch)
        old = opened(make_hub(core.hub.directory), DATA, kind="shim", pid=program.pid,
                     pid_started=process_started(program.pid))
        old.close()
        core.daemon.hub.load()
        nursery.start_soon(core.run)
        await core.keeper.ready.wait()
        one = core.hub.streams[old.id]
        assert not one.ended  # its program will bring the pipe
        program.kill()
        program.wait()
        await completed(core.hub, one)
        assert one.meta.reason == "the program has ended"
        nursery.cancel_scope.cancel()


class TestRetention:
    async def test_room_is_made_when_a_stream_ends(self, core: Core) -> None:
        old = await ended(core.hub, stream(*numbered(50, "old")))
        core.daemon.settings = Settings(spool_max_bytes=old.size + 100, spool_min_free_bytes=0)
        new = opened(core.hub, stream(*numbered(50, "new")))
        append(core.hub, new, *numbered(1, "new"))
        core.hub.end_stream(new, "test")
        await completed(core.hub, new)
        assert list(core.hub.streams) == [new.id]

    async def test_a_quota(self, core: Core) -> None:
        """The disk has room, but not for us: a program goes on at the cost of the oldest recording."""
        old, newer = [await ended(core.hub, stream(*numbered(50, name))) for name in ("old", "newer")]
        core.daemon.settings = Settings(spool_min_free_bytes=0)
        live = opened(core.hub)
        await core.hub.stalled(live, OSError(errno.EDQUOT, "Disk quota exceeded"))
        assert set(core.hub.streams) == {newer.id, live.id}
        assert not live.stalled
        assert not old.path.exists()

    async def test_a_large_live_stream_costs_no_ended_one(self, core: Core) -> None:
        one = await ended(core.hub, stream(*numbered(5)))
        core.daemon.settings = Settings(spool_max_bytes=2 * one.size, spool_min_free_bytes=0)
        opened(core.hub, stream(*numbered(50, "live")))
        assert core.daemon.expired() == []

    async def test_room_is_made_while_a_stream_grows(self, core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
        old = await ended(core.hub, stream(*numbered(50, "old")))
        live = opened(core.hub, stream(*numbered(1)))
        least = core.daemon.settings.spool_min_free_bytes
        monkeypatch.setattr("daemon.app.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1 << 50, 0, least - 1))
        monkeypatch.setattr("daemon.hub.LOOK_BYTES", 1)
        append(core.hub, live, arrow())
        assert old.id not in core.hub.streams

    async def test_what_the_disk_keeps_is_logged(
        self, core: Core, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        one = await ended(core.hub, stream(*numbered(50)))
        core.daemon.settings = Settings(spool_max_bytes=10, spool_min_free_bytes=0)

        def no(path: Path) -> None:
            raise PermissionError(1, "Operation not permitted", os.fspath(path))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", no)
            assert core.daemon.make_room() == 0
        assert f"retention: cannot remove stream {one.id}: Operation not permitted" in caplog.text
        assert core.daemon.make_room() > one.size

    async def test_not_before_it_is_known_who_reads(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        core = make_core(home, monkeypatch)
        core.listener.close()
        assert core.daemon.make_room() == 0  # its sinks are not even there


class TestProcesses:
    @pytest.mark.parametrize(("arguments", "name"), [
        ([sys.executable, "-m", "this.module"], "this.module"),
        ([sys.executable, "-u", "/a/prog.py", "--x"], "prog.py"),
        (["/bin/sleep", "600"], "sleep"),
    ])
    def test_what_one_is_called(
        self, arguments: list[str], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        import builtins

        line = tmp_path / "cmdline"
        line.write_bytes(b"\0".join(word.encode() for word in arguments) + b"\0")
        usual = builtins.open
        with monkeypatch.context() as patch:
            patch.setattr("builtins.open", lambda path, *more: usual(line if "cmdline" in str(path) else path, *more))
            assert process_name(7) == name
        assert process_name(1 << 30) == ""


@pytest.mark.parametrize(("text", "said"), [
    ("spool_max_bytes = maybe\n", "config.toml:1: not TOML"), ("no_such_key = 1\n", "unknown key no_such_key")])
def test_settings_that_cannot_be_used(home: Home, text: str, said: str) -> None:
    """It ends with a status that nobody starts it again for."""
    path = Path(home.env["XDG_CONFIG_HOME"]) / "rrd" / "config.toml"
    path.parent.mkdir()
    path.write_text(text)
    done = subprocess.run([sys.executable, "-m", "daemon.app"], env=home.env, capture_output=True, text=True,
                          check=False, timeout=60)
    assert done.returncode == EXIT_CONFIG
    assert said in done.stderr
