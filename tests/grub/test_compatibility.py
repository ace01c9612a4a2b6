"""Rows of docs/compatibility.md that GRUB decides: what it makes of what it does not know."""

from __future__ import annotations

import pytest

from abupdate.boot import rules
from abupdate.boot.envblock import format_block, parse_block
from abupdate.boot.grubenv import decode, encode
from abupdate.boot.state import arm, begin, provision, rescue_once
from tests.grub.grubbox import Disk, assert_booted, boot
from tests.grub.switchbox import OWN

ARMED = arm(begin(provision(3, 8), "B", "A"), "B")
NUMBER = b"set rules=%d\n" % OWN.number


def put(disk: Disk, raw: bytes) -> None:
    for name in ("grubenv", "grubenv.bak"):
        disk.write_boot(f"grub/{name}", raw)


def test_boot_state_of_another_format(disk: Disk) -> None:
    """Lost, as every value that may not be: rescue, and no slot that nobody vouches for."""
    put(disk, encode(ARMED).replace(b"fmt=1", b"fmt=2"))
    assert_booted(boot(disk), disk, "R", "rescue")


def test_boot_state_with_more_in_it(disk: Disk) -> None:
    """A later variable is left where it is."""
    put(disk, format_block({**(parse_block(encode(ARMED)) or {}), "later": "7"}))
    assert_booted(boot(disk), disk, "B", "trial")
    raw = disk.read_boot("grub/grubenv")
    assert decode(raw).countdown == 2
    assert (parse_block(raw) or {})["later"] == "7"


@pytest.mark.parametrize(
    "settings",
    [{"menu_wait": "soon", "later": "1"}, {"slot": "B", "prefix": "(hd9)", "abupdate_rules": "z"}],
)
def test_settings_that_are_not_known(disk: Disk, settings: dict[str, str]) -> None:
    """Nothing but its own names is taken from settings.env, and only what each may be."""
    put(disk, encode(provision(3, 8)))
    disk.write_boot("grub/settings.env", format_block(settings))
    found = boot(disk)
    assert_booted(found, disk, "A", "normal")
    assert found.arguments.rules == "a"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("192.0.2.7::192.0.2.1:255.255.255.0::eth0:off", True),
        ("eth0:dhcp init=/bin/sh", False),
        ("1;reboot", False),
    ],
)
def test_address_of_rescue(disk: Disk, address: str, said: bool) -> None:
    """It is rescue's alone, and nothing but an address."""
    put(disk, encode(rescue_once(provision(3, 8))))
    disk.write_boot("grub/settings.env", format_block({"rescue_ip": address}))
    found = boot(disk)
    assert_booted(found, disk, "R", "rescue")
    assert (f" ip={address}" in found.cmdline) == said
    assert said or ("ip=" not in found.cmdline and "init=" not in found.cmdline)
    found = boot(disk)
    assert_booted(found, disk, "A", "normal")
    assert "ip=" not in found.cmdline


def test_slot_that_says_more(disk: Disk) -> None:
    put(disk, encode(provision(3, 8)))
    found = parse_block(disk.read_slot("A", "/boot/abupdate.env")) or {}
    disk.write_slot("A", "/boot/abupdate.env", None)
    more = {**found, "later": "1", "slot": "B", "wanted": "rootB"}
    disk.write_slot("A", "/boot/abupdate.env", format_block(more))
    sums = disk.read_slot("A", "/boot/SHA256SUMS").splitlines(keepends=True)
    disk.write_slot("A", "/boot/SHA256SUMS", None)
    kept = b"".join(line for line in sums if b"abupdate.env" not in line)
    disk.write_slot("A", "/boot/SHA256SUMS", kept)
    assert_booted(boot(disk), disk, "A", "normal")


def test_rules_of_other_numbers_side_by_side(disk: Disk) -> None:
    """Either reads the state that the other has saved."""
    put(disk, encode(ARMED))
    newer = rules.filled(OWN.content.rstrip(b"#\n").replace(NUMBER, b"set rules=9\n") + b"\n")
    disk.write_boot("grub/rules-b.cfg", newer.content)
    disk.write_boot("grub/rules-b.sha256", rules.sums("b", newer))
    for left, use in ((2, "a"), (1, "b"), (0, "a")):
        disk.write_boot(f"grub/{rules.CHOICE}", rules.encode(rules.Choice(use)))
        found = boot(disk)
        assert_booted(found, disk, "B", "trial")
        assert found.arguments.rules == use
        assert decode(disk.read_boot("grub/grubenv")).countdown == left
