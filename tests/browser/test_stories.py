"""What people do at the page, and what comes in between: told by what they see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from abupdate.engine.contract import Reflash
from tests.browser.chromium import Line
from tests.browser.people import NARROW, Person, bundle
from tests.web import stories
from tests.web.fake_engine import NEW, OLD
from tests.web.live_server import PASSWORD, LiveServer, until
from tests.web.states import scene, trial

pytestmark = [pytest.mark.row("S45"), pytest.mark.timeout(180)]


@pytest.fixture
def owner(browser: Browser, server: LiveServer) -> Iterator[Person]:
    """Somebody who is logged in."""
    person = Person(browser, server).log_in()
    yield person
    person.leave()


def pause_at(server: LiveServer, step: str | None) -> None:
    """Where the next job waits."""
    server.engine.pause_at = step


def comes_back(server: LiveServer, how: str) -> None:
    """The device has restarted."""
    server.do(lambda: server.engine.boot_into(how))  # type: ignore[arg-type]
    server.do(lambda: stories.remember(server.engine))


def test_an_update_by_keyboard_alone(server: LiveServer, browser: Browser, tmp_path: Path) -> None:
    person = Person(browser, server, viewport=NARROW)
    page, keys = person.page, person.page.keyboard
    person.go("/")
    expect(page.get_by_label("Password")).to_be_focused()
    keys.type(PASSWORD)
    keys.press("Enter")
    expect(page.get_by_role("navigation")).to_be_visible()
    person.tab_to("Update")
    keys.press("Enter")
    person.reads("Update")
    page.locator("#bundle").set_input_files(bundle(tmp_path))  # a dialog of the system's
    page.locator("#bundle").focus()
    person.tab_to("Send and look into it")
    keys.press("Enter")
    person.reads(f"Release {NEW}")
    person.tab_to(f"Install release {NEW}")
    keys.press("Space")
    person.reads("installed, and waits for a restart")
    person.tab_to("Restart now")
    keys.press("Enter")
    person.reads("The device is restarting")
    comes_back(server, "manual")
    person.reads("on trial")
    person.tab_to("Go back…")
    keys.press("Enter")
    person.tab_to("Give it up and go back")
    person.tab_to("Confirm: keep it", back=True)
    keys.press("Enter")
    person.reads("is confirmed")
    person.leave()


def test_an_update_without_javascript(server: LiveServer, browser: Browser, tmp_path: Path) -> None:
    person = Person(browser, server, java_script_enabled=False).log_in()
    pause_at(server, "write")
    person.send(bundle(tmp_path))
    # The browser asks again by itself, for as long as something goes on.
    person.reads(f"Release {NEW}")
    person.press(f"Install release {NEW}")
    person.reads("Installing")
    expect(person.page.get_by_role("progressbar", name=f"Write release {NEW}")).to_be_visible()
    server.do(server.engine.resume)
    person.reads("installed, and waits for a restart")
    person.press("Restart now")
    person.reads("The device is restarting")
    comes_back(server, "on-trial")
    person.reads("on trial")
    with server.script() as client:
        client.post("/api/v1/confirm").raise_for_status()
    person.reads("runs in slot B|is confirmed")
    person.leave()


def test_an_upload_is_cut_and_goes_on_by_itself(
    server: LiveServer, browser: Browser, tmp_path: Path
) -> None:
    line = Line(server.port)
    person = Person(browser, server, url=f"http://127.0.0.1:{line.port}").log_in()
    file = bundle(tmp_path, 40 << 20)
    person.slowed(4 << 20)
    person.send(file)
    until_some_is_here(server)
    line.cut()
    person.sees("The connection was lost")
    line.mend()
    person.slowed(None)
    person.reads(f"Release {NEW}")
    (whole,) = server.context.uploads.folder.glob("*.bundle")
    assert whole.read_bytes() == file.read_bytes()
    person.leave()
    line.close()


def test_an_upload_goes_on_after_the_page_was_closed(
    server: LiveServer, browser: Browser, tmp_path: Path
) -> None:
    file = bundle(tmp_path, 40 << 20)
    first = Person(browser, server).log_in()
    first.slowed(4 << 20)
    first.send(file)
    here = until_some_is_here(server)
    first.page.context.close()
    person = Person(browser, server).log_in()
    person.go("/update")
    person.sees("An upload waits to go on")
    sent: list[str] = []
    person.page.on("request", lambda one: sent.append(one.headers.get("upload-offset", "")))
    person.page.locator("#bundle").set_input_files(file)
    person.press("Send and look into it")
    person.reads(f"Release {NEW}")
    offsets = [int(one) for one in sent if one]
    assert min(offsets) >= here
    (whole,) = server.context.uploads.folder.glob("*.bundle")
    assert whole.read_bytes() == file.read_bytes()
    person.leave()


def test_a_file_that_changes_under_an_upload_is_told(
    server: LiveServer, owner: Person, tmp_path: Path
) -> None:
    file = bundle(tmp_path, 20 << 20)
    owner.slowed(2 << 20)
    owner.send(file)
    until_some_is_here(server)
    bundle(tmp_path, 3 << 20)
    owner.sees("The file cannot be read any more")
    owner.press("Choose again")
    owner.slowed(None)
    owner.page.locator("#bundle").set_input_files(file)
    owner.press("Send and look into it")
    owner.reads(f"Release {NEW}")


def until_some_is_here(server: LiveServer) -> int:
    """How much of an upload has come, once that is more than nothing."""
    return int(until(lambda: next(
        (one.offset for one in server.context.uploads.all() if one.offset > 1 << 20), 0
    )))  # fmt: skip


def test_a_reload_at_each_stage_finds_it_again(
    server: LiveServer, owner: Person, tmp_path: Path
) -> None:
    pause_at(server, "trust")
    owner.send(bundle(tmp_path))
    owner.sees("Check its signature")
    owner.page.reload()
    owner.sees("Check its signature")
    server.do(server.engine.resume)
    owner.reads(f"Release {NEW}")
    owner.page.reload()
    pause_at(server, "write")
    owner.press(f"Install release {NEW}")
    owner.reads("Installing")
    owner.page.reload()
    expect(owner.page.get_by_role("progressbar", name=f"Write release {NEW}")).to_be_visible()
    server.do(server.engine.resume)
    owner.reads("waits for a restart")
    owner.page.reload()
    owner.press("Restart now")
    owner.reads("The device is restarting")
    owner.page.reload()
    comes_back(server, "on-trial")
    owner.reads("on trial")
    owner.page.reload()
    owner.reads("on trial")


def test_two_people_see_the_same(
    server: LiveServer, owner: Person, browser: Browser, tmp_path: Path
) -> None:
    other = Person(browser, server, viewport=NARROW).log_in()
    pause_at(server, "write")
    owner.install(bundle(tmp_path))
    owner.reads("Installing")
    other.sees("Installing release")  # on the page that was open all the time
    other.go("/update")
    other.sees("Another job runs")
    other.page.get_by_role("link", name="Follow it").click()
    other.reads("Installing")
    other.ask("Cancel…")
    other.press("Stop it")
    other.reads("cancelled|stopped")
    owner.reads("cancelled|stopped")
    other.leave()


def test_a_second_upload_is_refused_in_words(
    server: LiveServer, owner: Person, browser: Browser, tmp_path: Path
) -> None:
    owner.slowed(2 << 20)
    owner.send(bundle(tmp_path, 20 << 20))
    until_some_is_here(server)
    other = Person(browser, server).log_in()
    (tmp_path / "theirs").mkdir()
    other.send(bundle(tmp_path / "theirs"))
    expect(other.page.locator("#sending .trouble")).to_contain_text("upload")
    owner.slowed(None)
    owner.reads(f"Release {NEW}")
    other.leave()


def test_the_engine_goes_and_comes(server: LiveServer, owner: Person) -> None:
    server.do(lambda: server.engine.set_scene("gone"))
    owner.sees("does not answer")
    server.do(lambda: server.engine.set_scene("ok"))
    owner.reads("runs in slot A")
    expect(owner.page.locator("#away")).to_be_hidden()


def test_a_person_confirms(server: LiveServer, owner: Person) -> None:
    owner.go(trial("manual")(server))
    owner.reads("on trial")
    owner.press("Confirm: keep it")
    owner.reads("is confirmed")
    assert "confirm" in server.engine.calls


def test_a_person_goes_back(server: LiveServer, owner: Person) -> None:
    owner.go(trial("manual")(server))
    owner.ask("Go back…")
    owner.press("Give it up and go back")
    owner.reads("The device is restarting")
    assert "reject" in server.engine.calls
    comes_back(server, "fallback")
    owner.reads("was given up")


def test_a_fallback_is_told_first(server: LiveServer, owner: Person, tmp_path: Path) -> None:
    owner.install(bundle(tmp_path))
    owner.press("Restart now")
    comes_back(server, "on-trial")
    owner.reads("on trial")
    expect(owner.page.locator("main")).not_to_contain_text("success was")
    comes_back(server, "fallback")
    owner.reads(f"Release {NEW} was given up; release {OLD} runs again")
    owner.sees(stories.CAUSE.split(" (")[0][1:])
    owner.go("/")
    owner.reads("was given up")
    owner.press("I know of it")
    owner.reads(f"Release {OLD} runs")


def test_rescue_puts_slots_back(server: LiveServer, owner: Person) -> None:
    owner.go(scene("rescue", "/rescue")(server))
    owner.page.get_by_label("Slot A", exact=True).check()
    owner.ask("Factory reset too…")
    owner.sees("the owner's files, what services keep there, and all changes in /etc")
    words = owner.page.locator("#ask-reset code").inner_text()
    typed = owner.page.get_by_label(f"type {words}")
    typed.fill("yes")
    owner.press("Put back")
    owner.sees(words)  # another page: what was typed is not that
    assert server.engine.wishes == []
    owner.page.go_back()
    owner.page.get_by_label("Slot A", exact=True).check()
    if not typed.is_visible():
        owner.ask("Factory reset too…")
    typed.fill(words)
    pause_at(server, "write")
    owner.press("Put back")
    owner.reads("Putting slots back")
    expect(owner.page.get_by_role("progressbar", name=f"Write release {OLD}")).to_be_visible()
    (wish,) = server.engine.wishes
    assert isinstance(wish, Reflash)
    assert (wish.slots, wish.factory_reset, wish.release) == ("A", True, NEW)


def test_a_session_ends_in_the_middle(server: LiveServer, owner: Person, tmp_path: Path) -> None:
    pause_at(server, "write")
    owner.install(bundle(tmp_path))
    owner.reads("Installing")
    here = owner.page.url
    server.do(server.context.sessions.end_all)
    expect(owner.page.get_by_label("Password")).to_be_visible(timeout=30_000)
    owner.page.get_by_label("Password").fill(PASSWORD)
    owner.press("Log in")
    owner.reads("Installing")
    assert owner.page.url == here
    server.do(server.engine.resume)
    owner.reads("waits for a restart")
