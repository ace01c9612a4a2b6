"""QEMU's command line for what a machine is put together from: disks on a bus, firmware."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

Bus = Literal["virtio", "sata", "nvme", "usb", "scsi"]

OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
# The same for Secure Boot, with Microsoft's keys enrolled.
OVMF_SECURE_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd")
OVMF_SECURE_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")


def device_options(
    name: str, bus: Bus, sector: int = 512, *, bootindex: int | None = None
) -> list[str]:
    """QEMU's command line that puts the drive of that id on a bus.

    `bootindex`: the firmware tries disks in this order, and those without one as it likes.
    """
    device, controller = {
        "virtio": ("virtio-blk-pci", None),
        "sata": ("ide-hd", "ich9-ahci"),
        "nvme": ("nvme", None),
        "usb": ("usb-storage", "qemu-xhci"),
        "scsi": ("scsi-hd", "virtio-scsi-pci"),
    }[bus]
    more = [] if controller is None else ["-device", f"{controller},id={name}-bus"]
    words = f"{device},drive={name},id={name}-device,serial={name}"
    words += "" if controller is None else f",bus={name}-bus.0"
    words += f",logical_block_size={sector},physical_block_size={sector}"
    words += "" if bootindex is None else f",bootindex={bootindex}"
    return [*more, "-device", words]


def flash_options(variables: Path, *, secure_boot: bool = False) -> list[str]:
    """QEMU's command line for UEFI. `variables`: where the firmware keeps its own, made if new.

    Secure Boot needs a q35 machine with `smm=on`: only the firmware may write there.
    """
    code, sample = OVMF_CODE, OVMF_VARS
    if secure_boot:
        code, sample = OVMF_SECURE_CODE, OVMF_SECURE_VARS
    if not variables.exists():
        shutil.copyfile(sample, variables)
    flash = "if=pflash,format=raw,unit"
    secure = ["-global", "driver=cfi.pflash01,property=secure,value=on"] if secure_boot else []
    return [
        *("-drive", f"{flash}=0,readonly=on,file={code}"),
        *("-drive", f"{flash}=1,file={variables}"),
        *secure,
    ]
