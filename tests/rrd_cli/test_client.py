from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from daemon.wire import control
from rrd_cli import client as client_module
from rrd_cli.client import Client
from rrd_cli.errors import CliError, NoDaemonError, UsageError
from tests.rrd_cli.conftest import HangupError


def test_a_verb_is_said_and_answered(fake):
    fake.on("ls", {"recordings": [1]})
    with Client() as client:
        assert client.call("ls", {"x": 1}) == {"recordings": [1]}
        assert client.daemon_pid == 4711
    assert fake.said("hello") == [{"protocol": 1, "agent": client_module.AGENT, "pid": os.getpid()}]
    assert fake.said("ls") == [{"x": 1}]


@pytest.mark.parametrize(("args", "message", "hint"), [
    ({"path": "/x/\udcff.rrd"}, r"not UTF-8: /x/\\udcff.rrd", "rename it"),
    ({"source": ["x" * control.MAX_MESSAGE]}, "too much for one request: message of 10486", "name fewer"),
])
def test_what_cannot_be_said(fake, args, message, hint):
    """Nothing of it is sent, and the connection goes on."""
    fake.on("save", {})
    with Client() as client:
        for say in (client.call, client.begin):
            with pytest.raises(UsageError, match=message) as caught:
                say("save", args)
            assert hint in caught.value.hint
        client.call("save", {"path": "/x"})
    assert (fake.said("save"), fake.connections) == ([{"path": "/x"}], 1)


def test_many_verbs_share_a_connection(fake):
    fake.on("ls", {})
    with Client() as client:
        for _ in range(3):
            client.call("ls")
    assert fake.connections == 1


def test_progress_and_events_before_the_answer(fake):
    def save(call):
        call.progress(done_bytes=1, total_bytes=2)
        call.event("ended", stream="s1")
        call.send({"id": 999, "ok": {"stale": True}})
        call.progress(done_bytes=2, total_bytes=2)
        return {"complete": True}

    fake.on("save", save)
    seen = []
    with Client() as client:
        assert client.call("save", timeout=None, on_progress=seen.append) == {"complete": True}
        assert seen == [{"done_bytes": 1, "total_bytes": 2}, {"done_bytes": 2, "total_bytes": 2}]
        assert client.next_event(5) == {"event": "ended", "data": {"stream": "s1"}}
        assert client.next_event(0.01) is None
        assert client.connected


def test_descriptors_ride_along(fake):
    read_end, write_end = os.pipe()
    os.write(write_end, b"hello")
    fake.on("open", lambda call: {"data": os.read(call.fds[0], 5)})
    with Client() as client:
        assert client.call("open", fds=[read_end]) == {"data": b"hello"}
    os.close(read_end)
    os.close(write_end)


def test_a_large_request_and_a_large_answer(fake):
    fake.on("ls", lambda call: {"echo": call.args["text"]})
    text = "x" * 900_000
    with Client() as client:
        assert client.call("ls", {"text": text}) == {"echo": text}


def test_errors_arrive_whole(fake):
    def save(call):
        raise control.VerbError("exists", "file exists: /x", "use --force")

    fake.on("save", save)
    with Client() as client, pytest.raises(control.VerbError) as caught:
        client.call("save")
    assert (caught.value.code, caught.value.message, caught.value.hint) == ("exists", "file exists: /x", "use --force")


def test_an_unknown_verb_suggests_a_restart(fake):
    with Client() as client, pytest.raises(control.VerbError) as caught:
        client.call("spawn")
    assert caught.value.hint == "the daemon may be older: rrd daemon restart"


@pytest.mark.parametrize("lost", [1, 3])
def test_what_may_be_said_twice_is_said_again(fake, hangup, lost):
    def ls(call):
        if len(fake.said("ls")) <= lost:
            raise hangup
        return {"recordings": []}

    fake.on("ls", ls)
    with Client() as client:
        assert client.call("ls") == {"recordings": []}
        assert client.connections == lost + 1
    assert len(fake.said("ls")) == lost + 1


def test_what_may_not_be_said_twice_is_an_error(fake, hangup):
    def detach(call):
        raise hangup

    fake.on("detach", detach)
    with Client() as client, pytest.raises(CliError, match="went away before it answered to `detach`") as caught:
        client.call("detach")
    assert caught.value.exit_code == 1
    assert len(fake.said("detach")) == 1


def test_a_connection_that_was_lost_between_verbs_is_made_again(fake):
    fake.on("ls", {})
    with Client() as client:
        client.call("ls")
        fake.hang_up()
        assert client.call("ls") == {}
    assert fake.connections == 2


def test_a_daemon_that_is_stopping_is_asked_again(fake):
    def detach(call):
        if len(fake.said("detach")) == 1:
            raise control.VerbError("stopping", "the daemon is stopping")
        return {"sinks": ["a"]}

    fake.on("detach", detach)
    with Client() as client:
        assert client.call("detach") == {"sinks": ["a"]}
    assert fake.connections == 2


def test_a_daemon_that_keeps_dying_is_given_up(fake, hangup, monkeypatch):
    monkeypatch.setattr(client_module, "PATIENCE", 0.2)

    def ls(call):
        raise hangup

    fake.on("ls", ls)
    with Client() as client, pytest.raises(NoDaemonError, match="keeps going away"):
        client.call("ls")
    assert len(fake.said("ls")) > 1


def test_a_daemon_that_lived_long_is_waited_for_anew(fake, hangup, monkeypatch):
    """What waits for hours outlives any number of restarts."""
    monkeypatch.setattr(client_module, "PATIENCE", 0.2)

    def handler(call):
        if len(fake.said("tail")) <= 3:
            time.sleep(0.3)
            raise hangup
        return {"logs": []}

    fake.on("tail", handler)
    with Client() as client:
        assert client.call("tail", timeout=None) == {"logs": []}
    assert fake.connections == 4


def test_no_answer_in_time(fake):
    release = threading.Event()

    def ls(call):
        release.wait(10)
        return {}

    fake.on("ls", ls)
    with Client() as client, pytest.raises(NoDaemonError, match="does not answer to `ls`"):
        client.call("ls", timeout=0.05)
    release.set()


def test_a_sign_of_life_extends_the_wait(fake):
    pause = threading.Event()

    def save(call):
        for step in range(6):
            pause.wait(0.1)
            call.progress(done_bytes=step, total_bytes=6)
        return {}

    fake.on("save", save)
    with Client() as client:
        assert client.call("save", timeout=0.4) == {}


def test_no_hello_in_time_names_the_process(fake, monkeypatch):
    monkeypatch.setattr(client_module, "HELLO_DEADLINE", 0.1)
    release = threading.Event()
    monkeypatch.setattr(fake, "_answer", lambda call: release.wait(10))
    with Client() as client, pytest.raises(NoDaemonError, match="does not answer") as caught:
        client.connect()
    assert f"kill {os.getpid()}" in caught.value.hint  # the paper daemon is a thread of this process
    assert not client.connected
    release.set()


@pytest.mark.parametrize("hello", [{"protocol": 2, "version": "9.9"}, {"version": "9.9"}])
def test_another_protocol_is_named(fake, hello):
    fake.hello = hello
    with Client() as client, pytest.raises(control.VerbError, match=r"rrd 9\.9\) speaks protocol") as caught:
        client.connect()
    assert caught.value.code == "protocol"
    assert "restart" in caught.value.hint


@pytest.mark.parametrize("spoken", [0, 2])
def test_an_older_protocol_is_spoken_to_get_rid_of_it(fake, monkeypatch, spoken):
    """Down to the one that the daemon knows; where it knows none of them, the first refusal counts."""

    def answer(call):
        if call.verb == "hello" and call.args["protocol"] != spoken:
            failure = control.protocol_mismatch(call.args["protocol"], "rrd-cli", "9.9")
            call.send(control.error(call.id, failure))
            raise HangupError
        call.send(control.ok(call.id, {"protocol": spoken, "version": "9.9", "pid": 4711}))

    monkeypatch.setattr(fake, "_answer", answer)
    with Client(older=True) as client:
        if spoken == 0:
            client.call("restart")
            assert client.daemon_version == "9.9"
        else:
            with pytest.raises(control.VerbError, match="rrd-cli speaks protocol 1"):
                client.connect()
    assert fake.connections == 2
    with Client() as client, pytest.raises(control.VerbError):
        client.connect()
    assert fake.connections == 3


def test_a_refused_hello_is_passed_on(fake):
    fake.hello = control.protocol_mismatch(1, "rrd-cli 0.1", "9.9")
    with Client() as client, pytest.raises(control.VerbError, match="speaks protocol 1"):
        client.connect()


def test_garbage_is_no_answer(fake, monkeypatch):
    monkeypatch.setattr(fake, "_answer", lambda call: call.connection.sendall(b"\xff\xff\xff\xffgarbage"))
    with Client() as client, pytest.raises(CliError, match="no answer"):
        client.connect()


def test_no_daemon_and_none_wanted(private):
    with Client(may_start=False) as client, pytest.raises(NoDaemonError) as caught:
        client.connect()
    assert caught.value.hint == "rrd daemon start"


def test_interrupted_while_waiting(fake):
    def ls(call):
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(0.2)
        return {"late": True}

    fake.on("ls", ls)
    with Client() as client:
        with pytest.raises(KeyboardInterrupt):
            client.call("ls")
        fake.on("ls", {"fresh": True})
        assert client.call("ls") == {"fresh": True}


def test_an_event_ends_with_the_connection(fake):
    fake.on("ls", {})
    with Client() as client:
        assert client.next_event(1) is None  # never connected
        client.call("ls")
        fake.hang_up()
        assert client.next_event(10) is None
        assert not client.connected
