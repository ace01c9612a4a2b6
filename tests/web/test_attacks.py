"""Each row of docs/web-attacks.md is carried out against the real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from abupdate.web.limits import Limits
from tests.web import attacks
from tests.web.attacks import Attack, Place, request
from tests.web.live_server import LiveServer, until

_ALL = [
    pytest.param(attack, id=f"{group.name.split()[0].lower()}-{number}")
    for group in attacks.groups()
    for number, attack in enumerate(group.attacks)
]
_CHANGES = ("start", "cancel", "confirm", "reject", "acknowledge", "arm", "reboot")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("attacked") / "web"
    with LiveServer(folder, limits=Limits(drain=0.1)) as server:
        yield Place(server)


@pytest.mark.row("S46")
@pytest.mark.parametrize("attack", _ALL)
def test_attack(place: Place, attack: Attack) -> None:
    server = place.server
    server.engine.calls.clear()
    server.do(lambda: server.context.lockout.passed("127.0.0.1"))
    assert attack.act(place) == attack.expected
    asked = [call for call in server.engine.calls if call.startswith(_CHANGES)]
    assert asked == []
    # An attacker who leaves may be gone before the server has cleared up after it.
    assert until(lambda: list(server.context.uploads.folder.iterdir()) == [])
    after = place.send(request("GET /api/v1/status", attacks.TOKEN))
    assert after.startswith(b"HTTP/1.1 200 ")


def test_there_are_many() -> None:
    assert len(_ALL) >= 60


def test_the_page_of_attacks_is_up_to_date() -> None:
    assert attacks.PAGE.read_text(encoding="utf-8") == attacks.document(), (
        "`python -m tests.web.attacks` writes it"
    )
