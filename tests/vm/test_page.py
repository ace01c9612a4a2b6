"""The page of a real device in a real browser: uploads, reboots, and what it says of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import demo_parts
import device
import guest
import publisher
import pytest
from device_vm import DeviceVM
from network import free_port, network
from playwright.sync_api import Page, ViewportSize, expect
from vm import VM, Disk, accelerator

from tests.browser.chromium import Line, Visits, chromium
from tests.vm.rescue_vm import RESCUE, SIZES, zero
from tests.vm.test_rescue import hash_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(3000)]

PASSWORD = "correct horse battery"
MINUTE = 60_000  # milliseconds


RELEASES = (demo_parts.ONE, demo_parts.TWO, demo_parts.THREE)


@pytest.fixture(scope="module")
def series() -> publisher.Series:
    return publisher.publish(RELEASES)


@contextmanager
def visited(disk: Path, count: int = 1) -> Iterator[tuple[DeviceVM, Line, Visits, list[Page]]]:
    """A machine, and people who look at its page."""
    port, signers = free_port(), publisher.key().allowed_signers.read_text()
    accel = accelerator(lambda: guest.kernel(guest.build(RELEASES[0], signers)))
    line = Line(port)
    try:
        with VM([Disk(disk, bootindex=1)], accel=accel, memory=1024, extra=network(port)) as vm:
            machine = DeviceVM(vm)
            machine.power_on()
            machine.wait_for_boot()
            with chromium() as browser:
                expect.set_options(timeout=MINUTE)  # an emulated device takes its time
                visits = Visits(f"http://127.0.0.1:{line.port}")
                sizes: list[ViewportSize] = [
                    {"width": width, "height": 900} for width in (1280, 360)[:count]
                ]
                pages = [visits.add(browser.new_context(viewport=size)) for size in sizes]
                yield machine, line, visits, pages
    finally:
        line.close()


def first_login(machine: DeviceVM, page: Page, url: str) -> None:
    """The code that the device gives sets the password."""
    code = machine.run("abupdate", "web", "code").stdout.strip()
    page.goto(url)
    expect(page).to_have_url(f"{url}/setup")
    page.get_by_label("Code").fill(code)
    page.get_by_label("New password").fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_role("button", name="Set it").click()


def log_in(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("link", name="Overview")).to_be_visible()


def headline(page: Page, words: str, minutes: float = 1) -> None:
    """Wait until the page's first words are these."""
    pattern = re.compile(words)
    expect(page.get_by_role("heading", level=1)).to_have_text(pattern, timeout=minutes * MINUTE)


def send(page: Page, url: str, bundle: Path) -> None:
    page.goto(f"{url}/update")
    page.locator("#bundle").set_input_files(bundle)
    page.get_by_role("button", name="Send and look into it").click()


@pytest.mark.row("S45", "U11", "U16")
def test_updates_by_the_page(series: publisher.Series, images: Path) -> None:
    """Tampered: refused. Cut: resumed. Good: confirmed. Bad: the fallback is told first."""
    signers = publisher.key().allowed_signers
    disk = device.copy(device.build(series.bundle("1"), signers), images / "page.img")
    tampered = images / "tampered.bundle"
    content = bytearray(series.bundle("2", since=["1"]).read_bytes())
    content[len(content) * 3 // 4] ^= 1
    tampered.write_bytes(content)
    with visited(disk, 2) as (machine, line, visits, (page, other)):
        machine.settle()
        first_login(machine, page, visits.url)
        headline(page, "Release 1 runs in slot A: confirmed")
        log_in(other, visits.url)

        send(page, visits.url, tampered)
        headline(page, "could not|failed|refused|not", 3)
        expect(page.locator("p.cause")).not_to_be_empty()
        assert machine.status()["slots"]["B"]["state"] == "empty"

        cut_and_resumed(line, visits.url, page, other, series.bundle("2", since=["1"]), tampered)
        good(machine, visits.url, page, other)
        bad(machine, visits.url, page, other, series.bundle("3", since=["2"]))
        assert machine.settle() == "running"
        hardened(machine)
        assert not visits.foreign() and not visits.complaints
        machine.power_off()


def cut_and_resumed(
    line: Line, url: str, page: Page, other: Page, bundle: Path, second: Path
) -> None:
    """The network is lost under an upload; meanwhile somebody else would like to send one, too."""
    send(page, url, bundle)
    expect(page.locator("#sending .figures")).to_contain_text("left")
    line.cut()
    expect(page.locator("#sending .trouble")).to_contain_text("The connection was lost")
    line.mend()
    send(other, url, second)
    expect(other.locator("#sending .trouble")).to_contain_text("upload")
    headline(page, "Release 2", 4)
    expect(page.get_by_text("demo@localhost")).to_be_visible()


def good(machine: DeviceVM, url: str, page: Page, other: Page) -> None:
    """What was looked into is installed and tried; a reload at each stage finds it again."""
    page.reload()
    page.get_by_role("button", name="Install release 2").click()
    headline(page, "Installing")
    other.goto(url)
    expect(other.get_by_role("link", name="Installing")).to_be_visible()
    page.reload()
    headline(page, "Installing")
    restart(machine, page, 8)
    assert machine.wait_for_boot(release="2", boot="trial").slot == "B"
    headline(page, "Release 2 is confirmed", 5)
    assert machine.status()["booted"]["text"] == "confirmed on this boot"


def bad(machine: DeviceVM, url: str, page: Page, other: Page, bundle: Path) -> None:
    """It fails its own check at each try; that it came back is the first that anybody reads."""
    send(page, url, bundle)
    page.get_by_role("button", name="Install release 3").click(timeout=4 * MINUTE)
    restart(machine, page, 8)
    headline(page, "Release 3 is installed, on trial", 5)
    headline(page, "Release 3 was given up; release 2 runs again", 15)
    expect(page.get_by_text(demo_parts.FAILURE).first).to_be_visible()
    other.goto(url)
    headline(other, "Release 3 was given up")
    other.goto(f"{url}/history")
    expect(other.locator("#why")).to_contain_text(demo_parts.FAILURE)
    other.locator("#why").get_by_role("button", name="I know of it").click()
    other.goto(url)
    headline(other, "Release 2 runs in slot B")
    machine.wait_for_boot(release="2", boot="normal")


def restart(machine: DeviceVM, page: Page, minutes: float) -> None:
    """The job is done; the device restarts."""
    button = page.get_by_role("button", name="Restart now")
    expect(button).to_be_visible(timeout=minutes * MINUTE)
    # Nothing is a success before it is confirmed.
    expect(page.get_by_role("heading", level=1)).not_to_have_text(re.compile("confirmed"))
    machine.restarts()
    button.click()


def hardened(machine: DeviceVM) -> None:
    """What talks to the network is nobody's root, and the kernel holds it to that."""
    show = ("systemctl", "show", "--property")
    assert machine.run(*show, "User", "abupdate-web").stdout == "User=abupdate-web\n"
    peak = machine.run(*show, "MemoryPeak", "abupdate-web").stdout.strip().partition("=")[2]
    print(f"abupdate-web: at most {int(peak) >> 20} MiB, with what the kernel kept for it")
    told = machine.run("systemd-analyze", "security", "--threshold=15", "abupdate-web.service")
    print(told.stdout.splitlines()[-1])


@pytest.mark.row("S45", "S47")
def test_rescue_by_the_page(series: publisher.Series, images: Path, tmp_path: Path) -> None:
    """No slot is left; the page of the rescue system puts one back."""
    signers = publisher.key().allowed_signers
    rescue = publisher.publish([replace(RESCUE, files=guest.PAGE)]).bundle("1")
    built = device.build(series.bundle("1"), signers, SIZES, rescue=rescue)
    disk = device.copy(built, images / "page-rescue.img")
    before = hash_of(disk, "rescue", tmp_path)
    zero(disk, "rootA")
    with visited(disk) as (machine, _, visits, (page,)):
        assert machine.settle() in ("running", "degraded")
        assert machine.status()["booted"]["slot"] == "R"
        first_login(machine, page, visits.url)
        headline(page, "The device is in rescue")
        page.goto(f"{visits.url}/rescue")
        page.get_by_label("Release 1 of this device's store").check()
        page.get_by_label("Slot A", exact=True).check()
        page.get_by_role("button", name="Put back").click()
        restart(machine, page, 8)
        machine.wait_for_boot(release="1", boot="trial")
        headline(page, "Release 1 is confirmed", 5)
        assert not visits.foreign() and not visits.complaints
        machine.power_off()
    assert hash_of(disk, "rescue", tmp_path) == before
