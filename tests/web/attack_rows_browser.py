"""Attacks by strangers, and by other sites in the browser of somebody who is logged in."""

from __future__ import annotations

from tests.web.attacks import (
    COOKIE,
    CSRF,
    FORM,
    ME,
    OWN,
    TOKEN,
    Attack,
    Group,
    Place,
    form,
    raw,
    request,
    result,
)

_CONFIRM = "POST /api/v1/confirm"
_WRONG = "Origin: http://evil.example\r\n"
_ONE_FIELD = (
    "--b\r\nContent-Disposition: form-data; name=\"{}\"\r\n\r\n{}\r\n--b--\r\n"
)  # fmt: skip


def _confirm(headers: str) -> str:
    return request(_CONFIRM, headers)


def _form(line: str, headers: str, kind: str, body: str) -> str:
    return request(line, f"{headers}Content-Type: {kind}\r\n", body)


def _login_then(target: str) -> Attack:
    """Where a login leads that was linked to with another place's address."""

    def act(place: Place) -> str:
        body = place.fill("password={password}&next=").decode().replace(" ", "+") + target
        return result(place.send(request("POST /login", FORM + "Origin: {url}\r\n", body)))

    return Attack(f"login with `next={target}`", "303 to /", act)


WHO = Group(
    "Without a login",
    (
        Attack("an order without cookie or token", "401", raw(_confirm(""))),
        Attack("a page without a cookie", "303 to /login?next=/log", raw(request("GET /log"))),
        Attack("a page's button without a cookie", "401", raw(request("POST /act/confirm"))),
        Attack("a guessed cookie", "401", raw(_confirm("Cookie: abupdate=" + "A" * 43 + "\r\n"))),
        Attack("the cookie of somebody who logged out", "401",
               raw(_confirm("Cookie: abupdate={out}\r\n" + OWN + CSRF))),
        Attack("a stolen cookie after half an hour", "401",
               raw(_confirm("Cookie: abupdate={old}\r\n" + OWN + CSRF))),
        Attack("two cookies of our name", "401",
               raw(_confirm("Cookie: abupdate={cookie}; abupdate=x\r\n" + OWN + CSRF)),
               "one of them is somebody else's"),
        Attack("a cookie of 10 kB", "401",
               raw(_confirm("Cookie: abupdate=" + "A" * 10_000 + "\r\n"))),
        Attack("the cookie as a token", "401",
               raw(_confirm("Authorization: Bearer {cookie}\r\n"))),
        Attack("the token as a cookie", "401", raw(_confirm("Cookie: abupdate={token}\r\n"))),
        Attack("the token in the address", "401",
               raw(request("POST /api/v1/confirm?token={token}&access_token={token}"))),
        Attack("the password by Basic", "401",
               raw(_confirm("Authorization: Basic b3duZXI6Y29ycmVjdCBob3JzZSBiYXR0ZXJ5\r\n"))),
        Attack("an unknown token beside a good cookie", "401",
               raw(_confirm(ME + "Authorization: Bearer x\r\n"))),
        Attack("two tokens, one of them good", "400",
               raw(_confirm(TOKEN + "Authorization: Bearer x\r\n"))),
        Attack("an order with a read-only token", "403",
               raw(_confirm("Authorization: Bearer {reader}\r\n"))),
        Attack("an upload with a read-only token", "403",
               raw(request("PUT /api/v1/bundle", "Authorization: Bearer {reader}\r\n", "x"))),
        Attack("a page's button with a token", "303 to /login?next=/",
               raw(request("POST /act/confirm", TOKEN)), "buttons are for those who log in"),
        Attack("`X-Forwarded-For: 127.0.0.1`", "401",
               raw(_confirm("X-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\n"))),
        Attack("`X-Original-URL` and `X-Rewrite-URL` at a public page", "200",
               raw(request("GET /login", "X-Original-URL: /api/v1/status\r\n"
                           "X-Rewrite-URL: /api/v1/status\r\n")), "it is the login"),
    ),
)  # fmt: skip

CROSS_SITE = Group(
    "Another site in the browser of somebody who is logged in",
    (
        Attack("an order from another origin", "403", raw(_confirm(COOKIE + _WRONG + CSRF))),
        Attack("a form from another origin, with everything else right", "403",
               form("POST /act/confirm", COOKIE + _WRONG, "csrf={csrf}")),
        Attack("`Origin: null`", "403", raw(_confirm(COOKIE + "Origin: null\r\n" + CSRF))),
        Attack("no Origin", "403", raw(_confirm(COOKIE + CSRF))),
        Attack("`Sec-Fetch-Site: cross-site` without Origin", "403",
               raw(_confirm(COOKIE + CSRF + "Sec-Fetch-Site: cross-site\r\n"))),
        Attack("`Sec-Fetch-Site: same-site` with our Origin", "403",
               raw(_confirm(ME + "Sec-Fetch-Site: same-site\r\n"))),
        Attack("our name at another port", "403",
               raw(_confirm(COOKIE + CSRF + "Origin: http://127.0.0.1:1\r\n"))),
        Attack("our name as a user", "403",
               raw(_confirm(COOKIE + CSRF + "Origin: http://{host}@evil.example\r\n"))),
        Attack("our name as a beginning", "403",
               raw(_confirm(COOKIE + CSRF + "Origin: {url}.evil.example\r\n"))),
        Attack("our origin with a path", "403",
               raw(_confirm(COOKIE + CSRF + "Origin: {url}/evil\r\n"))),
        Attack("an origin that is no address", "403",
               raw(_confirm(COOKIE + CSRF + "Origin: http://[\r\n"))),
        Attack("two Origins", "400", raw(_confirm(ME + _WRONG))),
        Attack("a token of a script that another site got to know, from there", "403",
               raw(_confirm(TOKEN + _WRONG))),
        Attack("no CSRF token", "403", raw(_confirm(COOKIE + OWN))),
        Attack("a wrong CSRF token", "403", raw(_confirm(COOKIE + OWN + "X-CSRF-Token: x\r\n"))),
        Attack("the CSRF token of another session", "403",
               raw(_confirm(COOKIE + OWN + "X-CSRF-Token: {other}\r\n"))),
        Attack("the CSRF token in the address", "403",
               raw(request("POST /api/v1/confirm?csrf={csrf}", COOKIE + OWN))),
        Attack("two CSRF tokens in a form", "403",
               form("POST /act/confirm", COOKIE + OWN, "csrf={csrf}&csrf=x")),
        Attack("a CSRF token that is no ASCII", "403",
               form("POST /act/confirm", COOKIE + OWN, "csrf=\xff")),
        Attack("a form in parts without its CSRF token", "403",
               raw(_form("POST /update/upload", COOKIE + OWN, "multipart/form-data; boundary=b",
                         _ONE_FIELD.format("x", "y")))),
        Attack("a form in parts that never names its boundary", "403",
               raw(_form("POST /update/upload", COOKIE + OWN, "multipart/form-data", "x"))),
        Attack("JSON in a form of plain text", "415",
               raw(_form("POST /api/v1/jobs", ME, "text/plain", '{"kind":"repair","x":"="}'))),
        Attack("a login as somebody else", "403",
               form("POST /login", _WRONG, "password={password}")),
        Attack("a logout", "403", raw(request("POST /logout", COOKIE + _WRONG))),
        Attack("a button by its address", "303 to /trial",
               raw(request("GET /act/confirm", COOKIE)), "which only shows"),
        Attack("an order by its address", "405", raw(request("GET /api/v1/confirm", COOKIE))),
        Attack("a logout by its address", "405", raw(request("GET /logout", COOKIE))),
        Attack("the status as a script or a picture", "403",
               raw(request("GET /api/v1/status", COOKIE + "Sec-Fetch-Site: cross-site\r\n"))),
        Attack("asking whether another origin may (CORS)", "405",
               raw(request("OPTIONS /api/v1/confirm", _WRONG +
                           "Access-Control-Request-Method: POST\r\n")),
               "no answer has Access-Control headers"),
        Attack("a WebSocket to this device", "404",
               raw(request("GET /api/v1/socket", ME + "Upgrade: websocket\r\nSec-WebSocket-Key: "
                           "AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"))),
        *(_login_then(target) for target in (
            "https://evil.example/", "//evil.example/", "/%5Cevil.example", "/%09/evil.example",
            "javascript:alert(1)", "%2F%2Fevil.example", "/%0d%0aSet-Cookie:%20a=b", "",
        )),
    ),
)  # fmt: skip


def _host(name: str, expected: str = "421", why: str = "") -> Attack:
    shown = name.replace("{port}", "8080") or "nothing"
    return Attack(f"`Host: {shown}`", expected,
                  raw(request("GET /api/v1/status", TOKEN, host=name)), why)  # fmt: skip


REBINDING = Group(
    "A name that is not this device's (DNS rebinding)",
    (
        _host("evil.example"),
        _host("evil.example:{port}"),
        _host("evil.example."),
        _host("127.0.0.1.evil.example"),
        _host("localhost.evil.example"),
        _host("evil.example:80@127.0.0.1"),
        _host("127.0.0.1@evil.example"),
        _host("127.0.0.1/evil.example"),
        _host("127.0.0.1:80:80"),
        _host("127.0.0.1:999999"),
        _host("127.1"),
        _host("2130706433"),
        _host("0x7f.0.0.1"),
        _host("[::1"),
        _host("[::1]evil.example"),
        _host("[::1]:80:80"),
        _host("[fe80::1%25eth0]"),
        _host("127.0.0.1 evil.example"),
        _host("\xe9vil.example"),
        _host("*"),
        _host("localhost:{port}", "200", "our own names are fine"),
        _host("[::1]:{port}", "200", "addresses are fine: no site has them for its own"),
        Attack("no Host", "400", raw("GET /api/v1/status HTTP/1.1\r\n" + TOKEN + "\r\n")),
        Attack("no Host in HTTP/1.0", "421",
               raw("GET /api/v1/status HTTP/1.0\r\n" + TOKEN + "\r\n")),
        Attack("two Hosts", "400", raw(request("GET /api/v1/status", TOKEN + "Host: {host}\r\n"))),
        Attack("`X-Forwarded-Host: localhost` with another Host", "421",
               raw(request("GET /api/v1/status", TOKEN + "X-Forwarded-Host: localhost\r\n",
                           host="evil.example"))),
        Attack("`X-Forwarded-Host: evil.example`", "303 to /login",
               raw(request("GET /", "X-Forwarded-Host: evil.example\r\n")),
               "no answer leads to another host"),
        Attack("a whole address as the target", "400",
               raw(request("GET http://evil.example/api/v1/status", TOKEN))),
        Attack("our whole address as the target", "400",
               raw(request("GET {url}/api/v1/status", TOKEN))),
        Attack("another name with the owner's cookie", "421",
               raw(request(_CONFIRM, ME, host="evil.example"))),
        Attack("another name for a login", "421",
               raw(request("POST /login", FORM, "password=x", host="evil.example"))),
    ),
)  # fmt: skip

GROUPS = (WHO, CROSS_SITE, REBINDING)
