from __future__ import annotations

import json
import re

import pytest
import trio

from daemon.web.pages import CSP, LISTED, Site, load_static
from daemon.wire.rrd import HEADER_SIZE
from tests.helpers.web import HEADER, TOKEN, log_to, message, served, until_complete

PAGES = ["/", "/view", "/view?source=nothing"]
ALL = [*PAGES, "/api/recordings", "/stream", "/ws", "/static/viewer.js", "/recordings/one.rrd", "/nothing"]


@pytest.mark.parametrize("path", ALL)
async def test_nothing_without_the_token(tmp_path, path):
    async with served(tmp_path) as web:
        log_to(web.hub, "one", [b"x"])
        answer = await web.ask(path, token=False)
        assert answer.status == 403
        assert "rrd serve" in answer.json["hint"]
        wrong = await web.ask(path + ("&" if "?" in path else "?") + "token=wrong", token=False)
        assert wrong.status == 403
        assert TOKEN.encode() not in answer.body + wrong.body


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize(("header", "value", "status"), [
    ("Host", "evil.example", 421), ("Origin", "http://evil.example", 403), ("Sec-Fetch-Site", "same-site", 403),
])
async def test_nothing_for_other_sites_even_with_the_token(tmp_path, path, header, value, status):
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} if path == "/ws" else {}
    async with served(tmp_path) as web:
        assert (await web.ask(path, headers={**upgrade, header: value})).status == status


async def test_another_viewers_page_reads_a_recording_by_its_address(tmp_path):
    async with served(tmp_path) as web:
        stream = log_to(web.hub, "one", [b"x"])
        web.hub.end_stream(stream, "test")
        await until_complete(web.hub, stream)
        elsewhere = {"Origin": "http://localhost:9090"}
        answer = await web.ask(f"/recordings/one.rrd?token={TOKEN}", token=False, headers=elsewhere)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "*")
        assert (await web.ask(f"/api/recordings?token={TOKEN}", token=False, headers=elsewhere)).status == 403


async def test_a_refusal_is_a_page_for_people(tmp_path):
    async with served(tmp_path) as web:
        answer = await web.ask("/", token=False, headers={"Accept": "text/html"})
        assert answer.status == 403
        assert answer.headers["content-type"].startswith("text/html")
        assert b"needs a token" in answer.body
        assert b"run <code>rrd serve</code> on" in answer.body
        assert b"<script" not in answer.body


async def test_the_cookie_lets_the_page_in(tmp_path):
    async with served(tmp_path) as web:
        page = await web.ask(f"/?token={TOKEN}", token=False)
        cookie = page.headers["set-cookie"].split(";")[0]
        assert (await web.ask("/api/recordings", token=False, headers={"Cookie": cookie})).status == 200
        assert "set-cookie" not in (await web.ask("/", token=False, headers={"Cookie": cookie})).headers


@pytest.mark.parametrize(("source", "title"), [
    ("source=@latest", "app/two"), ("source=one", "app/one"), ("source=two&source=on", "app/one, app/two"),
    ("source=@live", "all live recordings"), ("source=@all", "all recordings"), ("source=later", "later"),
    ("source=run:x&source=@latest", "rrd run, app/two"), ("", "all live recordings"),
])
async def test_a_page_is_called_what_it_shows(tmp_path, source, title):
    async with served(tmp_path) as web:
        log_to(web.hub, "one", [b"x"])
        log_to(web.hub, "two", [b"x"])
        body = (await web.ask(f"/view?{source}")).body.decode()
        assert f"<title>{title}" in body
        assert json.loads(re.search(r'id="config"[^>]*>(.*?)</script>', body)[1])["title"] == title


@pytest.mark.parametrize("path", [*ALL, "/static/style.css"])
async def test_every_answer_has_the_security_headers(tmp_path, path):
    async with served(tmp_path, token=None) as web:
        headers = (await web.ask(path)).headers
        assert headers["content-security-policy"] == CSP
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("path", [
    "/static/../pages.py", "/static/%2e%2e/pages.py", "/static//etc/passwd", "/static/", "/static/error.html",
    "/static/index.html", "/assets/../../etc/passwd", "/assets/x/widget.js", "/recordings/..%2f..%2fetc%2fpasswd.rrd",
    "/recordings/%2fetc%2fpasswd.rrd", "/recordings/.rrd", "/../etc/passwd",
])
async def test_no_address_is_a_path(tmp_path, path):
    async with served(tmp_path) as web:
        answer = await web.ask(path)
        assert answer.status in (400, 404)
        assert b"import" not in answer.body


@pytest.mark.parametrize("source", ["/etc/passwd", "./x.rrd", "-", "..%2fx"])
async def test_a_page_cannot_open_files(tmp_path, source):
    async with served(tmp_path) as web:
        for path in ("/view", "/stream"):
            assert (await web.ask(f"{path}?source={source}")).status == 400


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "POST"])
async def test_methods_that_are_not_done(tmp_path, method):
    async with served(tmp_path) as web:
        assert (await web.ask("/", method=method)).status == 405


async def test_what_is_in_the_page_cannot_leave_its_data(tmp_path):
    async with served(tmp_path) as web:
        log_to(web.hub, "</script><script>alert(1)</script>", [b"x"])
        page = (await web.ask("/")).body.decode()
        config = re.search(r'<script type="application/json" id="config">(.*?)</script>', page, re.S)
        assert config is not None
        assert json.loads(config[1])["recordings"][0]["recording_id"] == "</script><script>alert(1)</script>"
        view = (await web.ask("/view?source=%3Cscript%3Ealert(1)%3C/script%3E")).body.decode()
        assert "<script>alert" not in view


async def test_the_list(tmp_path):
    async with served(tmp_path) as web:
        ended = log_to(web.hub, "one", [b"x" * 1000])
        web.hub.end_stream(ended, "test")
        await until_complete(web.hub, ended)
        log_to(web.hub, "two/three", [b"x", b"y"])
        found = (await web.ask("/api/recordings")).json["recordings"]
        newest, oldest = found
        assert set(newest) == {
            "name", "application_id", "recording_id", "live", "complete", "messages", "bytes", "started_at", "ended_at",
            "sdk", "program", "error", "file",
        }
        assert (newest["name"], newest["live"], newest["messages"]) == ("app/two/three", True, 2)
        assert newest["sdk"] == "0.41.0"
        assert (oldest["name"], oldest["live"], oldest["complete"]) == ("app/one", False, True)
        assert newest["file"] == "/recordings/app%2Ftwo%2Fthree.rrd"
        assert (await web.ask(oldest["file"])).status == 200


async def test_the_list_waits_for_a_change(tmp_path):
    async with served(tmp_path) as web:
        seen = (await web.ask("/api/recordings")).json["seen"]
        async with trio.open_nursery() as nursery:
            answers = []

            async def ask() -> None:
                answers.append((await web.ask(f"/api/recordings?since={seen}")).json)

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not answers
            log_to(web.hub, "one", [b"x"])
        assert [one["recording_id"] for one in answers[0]["recordings"]] == ["one"]


async def test_history_is_everything_with_its_header_and_where_it_ends(tmp_path):
    async with served(tmp_path) as web:
        stream = log_to(web.hub, "one", [b"a", b"b"])
        log_to(web.hub, "other", [b"x"])
        answer = await web.ask("/stream?source=one")
        whole = stream.path.read_bytes()
        assert answer.data == [whole]
        assert whole[:HEADER_SIZE] == HEADER.encode()
        last = answer.states[-1]
        assert last["caught_up"] is True
        assert (last["lag_bytes"], last["live"], last["streams"]) == (0, 1, 1)

        web.hub.append(stream, [message("one", b"c")])
        body = json.dumps({"source": ["ignored"], "resume": last["resume"]}).encode()
        more = await web.ask("/stream", method="POST", body=body)
        assert more.data == [whole[:HEADER_SIZE] + stream.path.read_bytes()[len(whole):]]


async def test_a_page_that_comes_back_misses_nothing_of_what_ended_meanwhile(tmp_path):
    async with served(tmp_path) as web:
        stream = log_to(web.hub, "one", [b"a"])
        resume = (await web.ask("/stream?source=@live")).states[-1]["resume"]
        web.hub.append(stream, [message("one", b"last words")])
        web.hub.end_stream(stream, "test")
        await until_complete(web.hub, stream)
        later = log_to(web.hub, "two", [b"b"])
        answer = await web.ask("/stream", method="POST", body=json.dumps({"resume": resume}).encode())
        assert b"last words" in b"".join(answer.data)
        assert later.path.read_bytes() in answer.data


@pytest.mark.parametrize("body", [
    b"", b"[]", b"{", b"[" * 100_000, b'{"source": 7}', b'{"source": ["one", 7]}', b'{"source": "/etc/passwd"}',
    b'{"resume": 7}', b'{"resume": {}}', b'{"resume": {"selection": {}, "cursors": {}}}',
    json.dumps({"source": ["a"] * (LISTED + 1)}).encode(),
])
async def test_requests_that_make_no_sense(tmp_path, body):
    async with served(tmp_path) as web:
        log_to(web.hub, "one", [b"x"])
        answer = await web.ask("/stream", method="POST", body=body)
        assert answer.status == 400, answer.body


@pytest.mark.parametrize("number", ["1e999", "1" + "0" * 400, "9" * 4300, "-1e999", "NaN"])
async def test_numbers_to_resume_at_that_are_none(tmp_path, caplog, number):
    async with served(tmp_path) as web:
        stream = log_to(web.hub, "one", [b"a"])
        told = (await web.ask("/stream?source=one")).states[-1]["resume"]
        for part, keys in ((told["cursors"][stream.id], range(4)), (told["selection"], ["live_since"])):
            for key in keys:
                was, part[key] = part[key], "NUMBER"
                body = json.dumps({"resume": told}).replace('"NUMBER"', number).encode()
                part[key] = was
                assert (await web.ask("/stream", method="POST", body=body)).status in (200, 400)
    assert "a bug in rrd" not in caplog.text


async def test_names_to_resume_at_that_are_none(tmp_path, caplog):
    async with served(tmp_path) as web:
        log_to(web.hub, "one", [b"a"])
        told = (await web.ask("/stream?source=one")).states[-1]["resume"]
        for key, names in (("recordings", [["app", "one"], [1, 2]]), ("streams", ["a", 1]), ("runs", ["a", None])):
            asked = {**told, "selection": {**told["selection"], key: names}}
            assert (await web.ask("/stream", method="POST", body=json.dumps({"resume": asked}).encode())).status == 200
    assert "a bug in rrd" not in caplog.text


@pytest.mark.parametrize("position", [1, 13, 29, 10**9, -1, 2**70])
async def test_places_to_resume_at_that_are_none(tmp_path, position):
    """Whatever a page says, it gets whole frames or a refusal, and the server lives."""
    async with served(tmp_path) as web:
        stream = log_to(web.hub, "one", [b"a" * 50, b"b"])
        resume = (await web.ask("/stream?source=one")).states[-1]["resume"]
        resume["cursors"][stream.id][0] = position
        await web.ask_anything("/stream", json.dumps({"resume": resume}).encode())
        assert (await web.ask("/stream?source=one")).data == [stream.path.read_bytes()]


async def test_other_places_of_another_writing_of_the_log(tmp_path):
    async with served(tmp_path) as web:
        stream = log_to(web.hub, "one", [b"a", b"b"])
        resume = (await web.ask("/stream?source=one")).states[-1]["resume"]
        stream.generation += 1  # the log was written anew: what was delivered of it cannot be told
        web.hub.append(stream, [message("one", b"c")])
        answer = await web.ask("/stream", method="POST", body=json.dumps({"resume": resume}).encode())
        (data,) = answer.data
        assert data == stream.path.read_bytes()


async def test_several_sources_and_what_is_not_there(tmp_path):
    async with served(tmp_path) as web:
        log_to(web.hub, "one", [b"a"])
        log_to(web.hub, "two", [b"b"], version=36)
        answer = await web.ask("/stream?source=one&source=app/two")
        assert sorted(body[5] for body in answer.data) == [36, 41]
        missing = await web.ask("/stream?source=three")
        assert missing.status == 404
        assert "three" in missing.json["error"]


async def test_all_that_the_list_shows_can_be_selected(tmp_path, monkeypatch):
    """At its longest, the address comes with the cookies of notebooks on the same host."""
    monkeypatch.setattr("daemon.web.assets.own_site", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    longest = int(re.search(rb"LONGEST = (\d+) << 10", load_static()["index.js"])[1]) << 10
    async with served(tmp_path) as web:
        log_to(web.hub, "one", [b"x"])
        sources = ["source=app/one"] * LISTED
        address = "/view?" + "&".join(sources)
        address += "x" * (longest - len(address))
        assert (await web.ask(address, headers={"Cookie": "notebook=" + "x" * 8192})).status == 200
        assert len((await web.ask("/stream?" + "&".join(sources))).data) == 1


async def test_without_a_viewer_the_page_says_what_to_install(tmp_path, monkeypatch):
    async with served(tmp_path) as web:
        log_to(web.hub, "one", [b"x"], version=99)
        monkeypatch.setattr("daemon.web.assets.own_site", lambda: None)
        monkeypatch.setenv("PATH", str(tmp_path))
        page = (await web.ask("/view?source=one")).body.decode()
        assert '"viewer":null' in page
        assert 'rerun-sdk[notebook]==0.99.0' in page


def test_every_file_that_a_page_names_is_there():
    static = Site.__dataclass_fields__["static"].default_factory()
    for name, body in static.items():
        for found in re.findall(rb'(?:/static/|from "\./)([a-z.]+)', body):
            assert found.decode() in static, f"{name} names {found!r}"
