"""A virtual machine to test with: QEMU, its monitor, serial console and agent.

    with VM([disk], firmware="uefi") as vm:
        vm.start()
        vm.serial.wait_for(r"login:", timeout=120)
        print(vm.agent.run(["uname", "-r"]).stdout)
        vm.power_cut()
        vm.start()

Everything that a run leaves (serial log with times, UEFI variables, sockets)
is in one temporary folder of the VM. All waits are bounded, and their errors
carry the end of the serial log.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import cache
from agent import Agent
from hardware import Bus, device_options, flash_options
from qemu.qmp import ExecuteError, QMPClient
from serial_console import SerialConsole, VMError

Firmware = Literal["uefi", "bios"]

# The fastest to boot of those that work: "max" hangs early, and svm makes the guest load kvm.
TCG_CPU = "qemu64,-svm"
# MiB of translated code. With the default (1 GiB), a reboot spends half a minute
# on throwing away what was translated before it.
TCG_CACHE = 64
HOTPLUG_PORTS = ("hotplug0", "hotplug1", "hotplug2")

_START_SECONDS = 20.0
_PROBE_SECONDS = 6.0


@dataclass(frozen=True)
class Disk:
    """A disk of the machine. `bootindex`: the firmware starts from the lowest, wherever it is."""

    path: Path
    bus: Bus = "virtio"
    readonly: bool = False
    sector: int = 512
    bootindex: int | None = None

    def options(self, name: str) -> list[str]:
        """QEMU's command line for it."""
        readonly = "on" if self.readonly else "off"
        return [
            "-drive",
            f"if=none,id={name},file={self.path},format=raw,cache=writeback,"
            f"discard=unmap,read-only={readonly}",
            *device_options(name, self.bus, self.sector, bootindex=self.bootindex),
        ]


class VM:
    """One virtual machine. Its disks keep what is written over `start` and `power_cut`."""

    def __init__(
        self,
        disks: Sequence[Disk | Path],
        *,
        firmware: Firmware = "uefi",
        secure_boot: bool = False,
        accel: str = "tcg",
        memory: int = 1024,
        cpus: int = 2,
        password: str | None = None,
        display: str = "none",
        extra: Sequence[str] = (),
    ) -> None:
        """`memory` in MiB; `password` for the user demo of a test guest.

        `secure_boot`: the firmware starts only what Microsoft has signed, and
        asks shim for the rest. `display` is QEMU's (none, gtk, sdl, vnc=…),
        `extra` more of its arguments.
        """
        self.disks = [disk if isinstance(disk, Disk) else Disk(disk) for disk in disks]
        self.firmware: Firmware = firmware
        self._secure_boot = secure_boot
        self._accel = accel
        self._memory = memory
        self._cpus = cpus
        self._password = password
        self._display = display
        self._extra = list(extra)
        self.directory = Path(tempfile.mkdtemp(prefix="abupdate-vm-"))
        self.serial = SerialConsole(self.directory / "serial.log")
        self.agent = Agent(self.serial)
        self._process: subprocess.Popen[bytes] | None = None
        self._loop = asyncio.new_event_loop()
        self._qmp: QMPClient | None = None
        self._plugged: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Power on. Returns when the machine runs, not when it has booted."""
        if self._process is not None:
            raise VMError("The machine runs already.")
        for name in ("qmp", "serial", "agent"):
            self._socket(name).unlink(missing_ok=True)
        with (self.directory / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._qmp = QMPClient("abupdate")
            self._await(self._qmp.connect(self._connect("qmp")))
            self.serial.attach(self._connect("serial"))
            self.agent.attach(self._connect("agent"))
            self.qmp("cont")
        except BaseException:
            self.power_cut()
            raise

    def command(self) -> list[str]:
        """QEMU's command line: it waits for `cont`, and console and agent are sockets."""
        words = [*self._machine(), "-S"]
        words += ["-qmp", f"unix:{self._socket('qmp')},server=on,wait=off"]
        words += ["-chardev", f"socket,id=serial,path={self._socket('serial')},server=on,wait=off"]
        words += ["-serial", "chardev:serial", "-device", "virtio-serial-pci"]
        words += ["-chardev", f"socket,id=agent,path={self._socket('agent')},server=on,wait=off"]
        return [*words, "-device", "virtserialport,chardev=agent,name=abupdate.agent"]

    def run_on_terminal(self) -> int:
        """Power on with this terminal as the serial console, until it is off; QEMU's exit code."""
        return subprocess.call([*self._machine(), "-serial", "mon:stdio"])

    def _machine(self) -> list[str]:
        words = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", self._display]
        # Without q35's own AHCI, whose six empty ports cost a boot a second.
        smm = ",smm=on" if self._secure_boot else ""
        words += ["-machine", f"q35,sata=off{smm}", *self._processor()]
        words += ["-m", str(self._memory), "-smp", str(self._cpus), "-vga", "std"]
        words += ["-device", "virtio-rng-pci"]
        for number, port in enumerate(HOTPLUG_PORTS, 1):
            words += ["-device", f"pcie-root-port,id={port},chassis={number},slot={number}"]
        if self.firmware == "uefi":
            variables = self.directory / "vars.fd"
            words += flash_options(variables, secure_boot=self._secure_boot)
        for number, disk in enumerate(self.disks):
            words += disk.options(f"disk{number}")
        if self._password is not None:
            words += ["-fw_cfg", f"name=opt/abupdate.password,string={self._password}"]
        return words + self._extra

    def power_cut(self) -> None:
        """What a pulled plug does: the process is killed, its disks stay as they are."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        self._after_end()

    def wait_for_power_off(self, timeout: float) -> None:
        """Wait until the guest has switched the machine off (seconds)."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise VMError(f"still on after {timeout:g} s\n{self.serial.tail()}") from error
        self._after_end()

    @property
    def running(self) -> bool:
        """Whether the machine is on."""
        return self._process is not None and self._process.poll() is None

    def qmp(self, command: str, **arguments: object) -> Any:
        """Run a QMP command and give its answer."""
        if self._qmp is None:
            raise VMError("The machine is off.")
        return self._await(self._qmp.execute(command, arguments or None))

    def reset(self) -> None:
        """Press the reset button."""
        self.qmp("system_reset")

    def attach_disk(
        self, name: str, disk: Disk, through: Mapping[str, object] | None = None
    ) -> None:
        """Plug a virtio disk in while the machine runs; it is gone at the next `start`.

        `through`: the block node that its file is reached by (`write_log`, `failing_disk`).
        """
        port = next((port for port in HOTPLUG_PORTS if port not in self._plugged.values()), None)
        if port is None:
            raise VMError(f"All {len(HOTPLUG_PORTS)} hotplug ports are taken.")
        file: dict[str, object] = {"driver": "file", "filename": str(disk.path)}
        file["read-only"] = disk.readonly
        below = through or file
        node = {"driver": "raw", "node-name": name, "read-only": disk.readonly, "file": below}
        self.qmp("blockdev-add", **node)
        self.qmp("device_add", driver="virtio-blk-pci", drive=name, id=name, serial=name, bus=port)
        self._plugged[name] = port

    def detach_disk(self, name: str, timeout: float = 30) -> None:
        """Pull a disk that `attach_disk` plugged in; the guest has to let it go."""
        self.qmp("device_del", id=name)
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.qmp("blockdev-del", **{"node-name": name})
                break
            except ExecuteError as error:
                if time.monotonic() > deadline:
                    raise VMError(f"disk {name} not released in {timeout:g} s") from error
                time.sleep(0.2)
        del self._plugged[name]

    def requests(self, name: str) -> dict[str, int]:
        """How many reads, writes and flushes a disk that was plugged in has been asked for."""
        asked = self.qmp("query-blockstats")
        (found,) = (one["stats"] for one in asked if one.get("node-name") == name)
        words = {"read": "rd", "write": "wr", "flush": "flush"}
        return {kind: found[f"{short}_operations"] for kind, short in words.items()}

    def screenshot(self, path: Path) -> None:
        """The screen as a PNG."""
        self.qmp("screendump", filename=str(path), format="png")

    def close(self) -> None:
        """Power off hard and delete the VM's folder (its disks stay)."""
        self.power_cut()
        if not self._loop.is_closed():
            self._loop.close()
        self.serial.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _processor(self) -> list[str]:
        if self._accel == "kvm":
            return ["-accel", "kvm", "-cpu", "host"]
        return ["-accel", f"tcg,thread=multi,tb-size={TCG_CACHE}", "-cpu", TCG_CPU]

    def _socket(self, name: str) -> Path:
        return self.directory / f"{name}.sock"

    def _connect(self, name: str) -> socket.socket:
        # QEMU makes a socket and listens a moment later: until then it refuses.
        deadline = time.monotonic() + _START_SECONDS
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(str(self._socket(name)))
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
                if not self.running or time.monotonic() > deadline:
                    raise VMError(f"QEMU did not start: {self._log_tail()}") from None
                time.sleep(0.02)
            else:
                return connection

    def _await(self, waiting: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(waiting, _START_SECONDS))

    def _log_tail(self) -> str:
        return (self.directory / "qemu.log").read_text(errors="replace")[-2000:].strip()

    def _after_end(self) -> None:
        if self._qmp is not None:
            with contextlib.suppress(Exception):
                self._await(self._qmp.disconnect())
            self._qmp = None
        self.serial.detach()
        self.agent.detach()
        self._process = None
        self._plugged.clear()


def accelerator(kernel: Callable[[], Path]) -> str:
    """`kvm` where a probe guest really runs with it, else `tcg`; `QEMU_ACCEL` decides alone.

    /dev/kvm may open and still hang every guest, so the kernel that `kernel`
    gives is booted until it finds no root filesystem, which takes it about a
    second. The answer is kept until the host reboots.
    """
    wanted = os.environ.get("QEMU_ACCEL")
    if wanted:
        if wanted not in {"kvm", "tcg"}:
            raise VMError(f"QEMU_ACCEL must be kvm or tcg, found {wanted!r}.")
        return wanted
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()

    def probe(path: Path) -> None:
        path.write_text("kvm" if _kvm_runs(kernel()) else "tcg")

    return cache.cached("accelerator", (boot,), "", probe).read_text()


def _kvm_runs(kernel: Path) -> bool:
    words = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults"]
    words += ["-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", str(kernel)]
    words += ["-append", "console=ttyS0 panic=-1"]
    try:
        done = subprocess.run(words, capture_output=True, timeout=_PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return b"Unable to mount root fs" in done.stdout
