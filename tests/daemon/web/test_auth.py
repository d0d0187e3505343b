from __future__ import annotations

import pytest

from daemon.web.auth import Guard, is_loopback, new_token
from daemon.wire.http import HttpError, Request, parse_request

HOST = {"host": "127.0.0.1:9887"}


def request(target: str = "/", **headers: str) -> Request:
    named = {**HOST, **{name.replace("_", "-"): value for name, value in headers.items()}}
    pairs = [(name.encode(), value.encode()) for name, value in named.items() if value]
    return parse_request(b"GET", target.encode(), pairs)


def refused(guard: Guard, asked: Request, *, opens_page: bool = False) -> int:
    with pytest.raises(HttpError) as error:
        guard.check(asked, opens_page=opens_page)
    return error.value.status


def test_the_token_opens_once_and_the_cookie_from_then_on():
    guard = Guard("secret")
    assert refused(guard, request()) == 403
    assert refused(guard, request("/?token=wrong"), opens_page=True) == 403
    cookie = guard.check(request("/?token=secret"), opens_page=True)
    assert cookie is not None
    assert cookie.endswith("; Path=/; HttpOnly; SameSite=Strict")
    pair = cookie.split(";")[0]
    assert guard.check(request("/api", cookie=f"other=1; {pair}")) is None
    assert refused(guard, request("/api", cookie=pair + "x")) == 403


def test_programs_may_send_the_token_each_time_and_get_no_cookie():
    guard = Guard("secret")
    assert guard.check(request("/x.rrd?token=secret")) is None
    assert guard.check(request(authorization="Bearer secret")) is None
    assert refused(guard, request(authorization="Basic secret")) == 403


def test_a_wrong_token_is_refused_whatever_the_cookie_says():
    guard = Guard("secret")
    assert refused(guard, request("/?token=wrong", cookie=f"{guard.cookie_name}=secret")) == 403


def test_a_ticket_is_good_once_and_for_pages_only():
    guard = Guard("secret")
    one = guard.ticket()
    assert refused(guard, request(f"/api?ticket={one}")) == 403
    assert "secret" in (guard.check(request(f"/?ticket={one}"), opens_page=True) or "")
    assert refused(guard, request(f"/?ticket={one}"), opens_page=True) == 403
    assert refused(guard, request("/?ticket="), opens_page=True) == 403
    assert Guard(None).ticket() == ""


def test_servers_on_one_host_have_cookies_of_their_own():
    assert Guard("a").cookie_name != Guard("b").cookie_name


@pytest.mark.parametrize("host", [
    "127.0.0.1:1", "[::1]:1", "localhost:9", "192.168.0.7:9887", "x.localhost", "robot:9887", "ROBOT",
])
def test_hosts_that_are_answered(host):
    assert Guard(None, ["robot"]).check(request(host=host)) is None


@pytest.mark.parametrize(("host", "status"), [
    ("evil.example:9887", 421), ("localhost.evil.example", 421), ("", 400), ("a b", 400),
])
def test_hosts_that_are_refused(host, status):
    """DNS rebinding: the attacker's name points here, and the browser sends it."""
    assert refused(Guard(None, ["robot"]), request(host=host)) == status
    assert refused(Guard("secret", ["robot"]), request("/?token=secret", host=host)) == status


@pytest.mark.parametrize("origin", [
    "http://evil.example", "null", "http://127.0.0.1:9888", "http://localhost:9887", "https://127.0.0.1", "file://",
])
def test_other_origins_are_refused(origin):
    """Cross-site WebSocket hijacking: the browser sends our cookies along with the handshake, and its page's origin."""
    assert refused(Guard(None), request(origin=origin)) == 403
    assert refused(Guard("secret"), request("/?token=secret", origin=origin)) == 403


def test_other_pages_may_read_a_recording_whose_address_has_the_token():
    guard = Guard("secret")
    elsewhere = {"origin": "http://localhost:9090", "sec_fetch_site": "same-site", "sec_fetch_mode": "cors"}
    assert guard.check(request("/x.rrd?token=secret", **elsewhere), by_address=True) is None
    for target, more in (("/x.rrd?token=wrong", {}), ("/x.rrd", {"authorization": "Bearer secret"}),
                         ("/x.rrd", {"cookie": f"{guard.cookie_name}=secret"})):
        with pytest.raises(HttpError, match="other sites"):
            guard.check(request(target, **elsewhere, **more), by_address=True)
    with pytest.raises(HttpError, match="does not answer to the name"):
        guard.check(request("/x.rrd?token=secret", host="evil.example"), by_address=True)
    with pytest.raises(HttpError, match="other sites"):
        Guard(None).check(request("/x.rrd?token=", **elsewhere), by_address=True)


def test_our_own_origin_and_proxies_that_end_tls():
    guard = Guard(None, ["robot.example"])
    assert guard.check(request(origin="http://127.0.0.1:9887")) is None
    assert guard.check(request(host="robot.example", origin="https://robot.example")) is None


def test_other_sites_may_link_to_pages_and_no_more():
    guard = Guard(None)
    navigation = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert guard.check(request(**navigation), opens_page=True) is None
    assert refused(guard, request(**navigation)) == 403
    assert refused(guard, request(**{**navigation, "sec_fetch_dest": "iframe"}), opens_page=True) == 403
    for site in ("cross-site", "same-site"):  # another port of localhost is the same site
        assert refused(guard, request(sec_fetch_site=site, sec_fetch_mode="no-cors", sec_fetch_dest="script")) == 403
    assert guard.check(request(sec_fetch_site="same-origin", sec_fetch_mode="cors", sec_fetch_dest="empty")) is None


def test_tokens_are_long_and_never_the_same():
    found = {new_token() for _ in range(100)}
    assert len(found) == 100
    assert min(map(len, found)) >= 22


def test_loopback():
    assert [is_loopback(one) for one in ("127.0.0.1", "127.1.2.3", "::1", "localhost")] == [True] * 4
    assert [is_loopback(one) for one in ("0.0.0.0", "::", "192.168.1.1", "robot", "")] == [False] * 5
