"""Attacks by the form of a request: paths, lengths, framing, methods, JSON, names."""

from __future__ import annotations

from tests.web.attacks import (
    FORM,
    JSON,
    ME,
    OWN,
    TOKEN,
    UPLOAD,
    Attack,
    Group,
    Place,
    form,
    raw,
    request,
    result,
)


def _get(path: str, expected: str, headers: str = "", why: str = "") -> Attack:
    shown = path if len(path) < 60 else f"{path[:20]}…, {len(path)} bytes"
    return Attack(f"`{shown}`", expected, raw(request(f"GET {path}", headers)), why)


def _named(name: str, expected: str, why: str = "") -> Attack:
    """An upload whose file is called like this."""

    def act(place: Place) -> str:
        body = f'{{"size": 3, "name": "{name}"}}'
        made = result(place.send(request("POST /api/v1/uploads", TOKEN + JSON, body)))
        context = place.server.context
        folder = context.uploads.folder
        for one in context.uploads.all():
            kept = {path.name for path in folder.iterdir()}
            assert kept == {f"{one.id}.part", f"{one.id}.json"}
            place.server.do(lambda one=one: context.uploads.drop(one.id))  # type: ignore[misc]
        return made.split(" to ")[0]

    return Attack(f"an upload called `{name}`", expected, act, why)


NAMES = Group(
    "Names and paths",
    (
        _get("/static/../../../../etc/passwd", "400"),
        _get("/static/%2e%2e/%2e%2e/auth.py", "400"),
        _get("/static/..%2f..%2f..%2fauth.py", "400"),
        _get("/static/%252e%252e/auth.py", "404"),
        _get("/static/..%5c..%5cauth.py", "400"),
        _get("/static/app.css%00.png", "400"),
        _get("/static//etc/passwd", "400"),
        _get("/static/%2fetc/passwd", "400"),
        _get("/static/%c0%ae%c0%ae/auth.py", "400"),
        _get("/static/", "404"),
        _get("//evil.example/", "400"),
        _get("/%0d%0aSet-Cookie:%20a=b", "400"),
        _get("/login/..;/api/v1/status", "303 to /login?next=/login/..%3B/api/v1/status"),
        _get("/static/../api/v1/status", "400"),
        _get("/api/v1/uploads/..%2f..%2fpassword", "400", TOKEN),
        _get("/api/v1/jobs/..%2f..%2fetc", "400", TOKEN),
        _get("/API/v1/status", "404", TOKEN),
        _get("/api/v1/uploads/" + "a" * 41, "404", TOKEN),
        _named("../../../etc/passwd", "201", "a name is shown, and no path is made of it"),
        _named("/etc/cron.d/x", "201", "the same"),
        _named("x.bundle; reboot", "201", "the same"),
        _named("<script>alert(1)</script>", "201", "the same"),
        _named("a\\u0000b", "422"),
        _named("a\\r\\nSet-Cookie: a=b", "422"),
        _named("a\\u001b[2J", "422"),
        _named("elif.\\u202eelbnub", "422", "it would be shown in another direction"),
        _named("a" * 201, "422"),
        Attack("the name of a whole bundle with a line break", "400",
               raw(request("PUT /api/v1/bundle?name=a%0d%0ab", TOKEN, "x"))),
        Attack("an upload of another name than the server's", "404",
               raw(request("PUT /api/v1/uploads/" + "a" * 32, TOKEN, "x"))),
        Attack("an install of `../../etc/shadow`", "422",
               raw(request("POST /api/v1/jobs", TOKEN + JSON,
                           '{"kind":"install","upload":"../../etc/shadow"}'))),
        Attack("an install of release `--help`", "422",
               raw(request("POST /api/v1/jobs", TOKEN + JSON,
                           '{"kind":"install","release":"--help"}'))),
        Attack("an install with a path of the attacker's", "422",
               raw(request("POST /api/v1/jobs", TOKEN + JSON,
                           '{"kind":"install","source":"https://evil.example/x.bundle"}'))),
    ),
)  # fmt: skip

_STATUS = "GET /api/v1/status"
_PUT = "PUT /api/v1/bundle"


def _lying(place: Place) -> str:
    text = request(_PUT, TOKEN + "Content-Length: 100\r\n", "x" * 10, length=False)
    told = place.server.talk(place.fill(text), wait=False)
    return result(told)


SIZES = Group(
    "Too much, and other than was said",
    (
        Attack("a header of 20 kB", "431",
               raw(request(_STATUS, TOKEN + f"X: {'a' * 20_000}\r\n"))),
        Attack("a first line of 20 kB", "414", raw(request(f"GET /{'a' * 20_000}", TOKEN))),
        Attack("200 headers", "431",
               raw(request(_STATUS, TOKEN + "".join(f"X-{n}: a\r\n" for n in range(200))))),
        Attack("an address of 3 kB", "414", raw(request(f"GET /{'a' * 3000}", TOKEN))),
        Attack("a query of 3 kB", "414", raw(request(f"GET /?{'a' * 3000}", TOKEN))),
        Attack("a login of 70 kB", "413",
               raw(request("POST /login", FORM + OWN, "password=" + "a" * 70_000))),
        Attack("a password of 60 kB", "403",
               raw(request("POST /login", FORM + OWN, "password=" + "a" * 60_000))),
        Attack("a form of 1000 fields", "400",
               raw(request("POST /login", FORM + OWN, "&".join(f"a{n}=1" for n in range(1000))))),
        Attack("a body of 5 GB, announced", "413",
               raw(request(_PUT, TOKEN + "Content-Length: 5000000000\r\n", length=False)),
               "before the first byte of it"),
        Attack("JSON of 5 GB, announced", "413",
               raw(request("POST /api/v1/jobs", TOKEN + JSON + "Content-Length: 5000000000\r\n",
                           length=False))),
        Attack("an upload that announces 5 GB", "413",
               raw(request("POST /api/v1/uploads", TOKEN + JSON, '{"size": 5000000000}'))),
        Attack("an upload of unknown length", "411",
               raw(request(_PUT, TOKEN + "Transfer-Encoding: chunked\r\n", "1\r\nx\r\n0\r\n\r\n",
                           length=False))),
        Attack("a body of a stranger's, announced", "401",
               raw(request(_PUT, "Content-Length: 1000000\r\n", length=False)),
               "without waiting for it"),
        Attack("a length with more bytes than come", "closed", _lying, "and nothing is kept"),
        Attack("a length with fewer bytes than come", "401",
               raw(request(_PUT, "Content-Length: 1\r\n", "x" * 5000, length=False)),
               "and the connection ends: the rest is no request"),
        Attack("a length of 20 digits", "413",
               raw(request(_PUT, TOKEN + f"Content-Length: {'9' * 19}\r\n", length=False))),
        Attack("an offset beyond everything", "404",
               raw(request(f"PUT /api/v1/uploads/{UPLOAD}",
                           TOKEN + "Upload-Offset: 99999999999999999999\r\n", "x"))),
    ),
)  # fmt: skip


def _framed(headers: str, body: str = "0\r\n\r\n", expected: str = "400") -> Attack:
    shown = headers.strip().replace("\r\n", ", ").replace("\0", "\\0").replace("\t", "\\t")
    text = request("POST /api/v1/confirm", TOKEN + headers, body, length=False)
    return Attack(f"`{shown}`", expected, raw(text))


CHUNKED = "Transfer-Encoding: chunked\r\n"
SMUGGLING = Group(
    "Where a request ends (smuggling)",
    (
        _framed("Content-Length: 5\r\n" + CHUNKED),
        _framed(CHUNKED + "Content-Length: 5\r\n"),
        _framed("Content-Length: 5\r\nContent-Length: 6\r\n"),
        _framed("Content-Length: 5, 6\r\n"),
        _framed("Content-Length: +5\r\n"),
        _framed("Content-Length: -5\r\n"),
        _framed("Content-Length: 0x5\r\n"),
        _framed("Content-Length: 5_0\r\n"),
        _framed("Content-Length:\r\n"),
        _framed("Transfer-Encoding: xchunked\r\n"),
        _framed("Transfer-Encoding: chunked, identity\r\n"),
        _framed("Transfer-Encoding: gzip, chunked\r\n"),
        _framed(CHUNKED + CHUNKED),
        _framed("Transfer-Encoding : chunked\r\n"),
        _framed("X: a\rTransfer-Encoding: chunked\r\n"),
        _framed("X: a\0b\r\n"),
        _framed("X-\xe9: a\r\n"),
        Attack("a chunk of `-1` bytes", "400",
               raw(request("POST /api/v1/jobs", TOKEN + JSON + CHUNKED, "-1\r\nx\r\n"))),
        Attack("a chunk of `0x1` bytes", "400",
               raw(request("POST /api/v1/jobs", TOKEN + JSON + CHUNKED, "0x1\r\nx\r\n"))),
        Attack("a chunk of 2^80 bytes", "400",
               raw(request("POST /api/v1/jobs", TOKEN + JSON + CHUNKED, "1" + "0" * 20 + "\r\nx"))),
        Attack("a second request behind one that is refused", "401",
               raw("POST /api/v1/confirm HTTP/1.1\r\nHost: {host}\r\nContent-Length: 400\r\n\r\n"
                   + request("POST /api/v1/reboot", TOKEN)),
               "it is read as the first one's body"),
        Attack("HTTP/0.9", "400", raw("GET /login\r\n\r\n")),
        Attack("HTTP/2 without asking", "405", raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
        Attack(
            "TLS where there is none", "400",
            raw("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\r\n\r\n"),
        ),
    ),
)  # fmt: skip


def _method(method: str, expected: str = "405", path: str = "/api/v1/confirm") -> Attack:
    return Attack(f"`{method} {path}`", expected, raw(request(f"{method} {path}", TOKEN)))


METHODS = Group(
    "Methods",
    (
        _method("TRACE"),
        _method("TRACK"),
        _method("OPTIONS"),
        _method("PATCH"),
        _method("PROPFIND"),
        _method("post"),
        _method("HEAD"),
        _method("PUT"),
        _method("CONNECT", path="evil.example:443"),
        _method("OPTIONS", path="*"),
        Attack("`X-HTTP-Method-Override: POST` with GET", "405",
               raw(request("GET /api/v1/confirm", TOKEN + "X-HTTP-Method-Override: POST\r\n"
                           "X-HTTP-Method: POST\r\nX-Method-Override: POST\r\n"))),
        Attack("`_method=DELETE` in a form", "403",
               form("POST /update", ME.replace("X-CSRF-Token: {csrf}\r\n", ""),
                    "_method=DELETE")),
        Attack("`Upgrade: h2c`", "401",
               raw(request("POST /api/v1/confirm", "Upgrade: h2c\r\nHTTP2-Settings: AAAA\r\n"))),
    ),
)  # fmt: skip


def _json(body: str, expected: str, kind: str = "application/json", name: str = "") -> Attack:
    text = request("POST /api/v1/jobs", f"{TOKEN}Content-Type: {kind}\r\n", body)
    shown = name or f"`{body}`"
    return Attack(shown, expected, raw(text))


def _size(number: str, expected: str, name: str = "") -> Attack:
    body = f'{{"size": {number}}}'
    text = request("POST /api/v1/uploads", TOKEN + JSON, body)
    return Attack(name or f"`{body}`", expected, raw(text))


def _nothing(place: Place) -> str:
    return result(place.send(request("POST /api/v1/jobs", TOKEN + JSON + "Content-Length: 0\r\n")))


_REPAIR = '{"kind":"repair"}'
_UTF16 = _REPAIR.encode("utf-16").decode("latin-1")
CONTENT = Group(
    "JSON",
    (
        _json("{", "400"),
        _json(_REPAIR + "x", "400"),
        _json("/* */" + _REPAIR, "400"),
        _json("{'kind':'repair'}", "400"),
        _json("[" * 60_000, "400", name="60,000 lists in each other"),
        _json('{"a":' * 12_000, "400", name="12,000 objects in each other"),
        _json('{"kind":"inspect","kind":"repair"}', "400"),
        _json('{"kind":"repair","__proto__":{"x":1}}', "422"),
        _json('[{"kind":"repair"}]', "422"),
        _json("null", "422"),
        _json("NaN", "422"),
        _json('{"kind":NaN}', "422"),
        _json('{"kind":["repair"]}', "422"),
        _json('{"kind":"install","upload":"' + UPLOAD + '","arm":"no"}', "422"),
        _json('{"kind":"install","upload":"' + UPLOAD + '","arm":0}', "422"),
        _json('{"kind":"install","release":"\\ud800"}', "400"),
        _json('{"kind":"install","release":"\xff"}', "400", name="bytes that are no UTF-8"),
        _json(_UTF16, "400", name="JSON in UTF-16"),
        _json("\xef\xbb\xbf" + _REPAIR, "400", name="JSON with a byte order mark"),
        Attack("no body", "400", _nothing),
        _json(_REPAIR, "415", "text/plain"),
        _json(_REPAIR, "415", "application/x-www-form-urlencoded"),
        _json(_REPAIR, "415", "application/jsonx"),
        _size("NaN", "422"),
        _size("-1", "422"),
        _size("0", "422"),
        _size("1e3", "422"),
        _size("1.5", "422"),
        _size('"5"', "422"),
        _size("true", "422"),
        _size("9" * 30, "422"),
        _size("1" + "0" * 5000, "400", "a size of 5000 digits"),
        _size("1e999999999", "422"),
    ),
)  # fmt: skip

GROUPS = (NAMES, SIZES, SMUGGLING, METHODS, CONTENT)
