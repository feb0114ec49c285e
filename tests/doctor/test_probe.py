"""What the doctor's probe sees of a machine: its GPUs, its disks, its limits, and the folder that it shares."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import pytest

from ratchet.doctor import probe
from ratchet.doctor.facts import Gpu, Storage

GIB = 1 << 30
H100 = Gpu("NVIDIA H100 80GB HBM3", 81559 << 20, "570.86.15")
A100 = Gpu("NVIDIA A100-SXM4-80GB", 81920 << 20, "535.183.01")


def test_what_nvidia_smi_says_is_read() -> None:
    text = "NVIDIA H100 80GB HBM3, 81559, 570.86.15\nNVIDIA A100-SXM4-80GB, 81920, 535.183.01\n"
    assert probe.parse_smi(text) == (H100, A100)


NO_GPU = ["", "No devices were found\n", "NVIDIA-SMI has failed: no driver\n", "NVIDIA H100, [N/A], 570\n", "a, b\n"]


@pytest.mark.parametrize("text", NO_GPU)
def test_what_nvidia_smi_says_without_a_gpu_is_no_gpu(text: str) -> None:
    assert probe.parse_smi(text) == ()


@pytest.mark.slow
def test_a_gpu_is_there_where_torch_finds_one(tmp_path: Path) -> None:
    import torch

    found = probe.machine(tmp_path)
    assert (found.cuda, found.cuda_devices) == (torch.version.cuda, torch.cuda.device_count())


def test_this_machine_is_seen_as_the_system_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_ASK_TORCH", "print('', 0, sep=',')")  # loading it takes 2 s, three times
    found = probe.machine(tmp_path / "not" / "there")
    assert found.free_storage is not None
    assert abs(found.free_storage - shutil.disk_usage(tmp_path).free) < GIB
    assert found.open_files >= resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert found.name == os.uname().nodename
    assert not (tmp_path / "not").exists()
    assert probe.machine(Path("/proc/nowhere")).free_storage is None or os.access("/proc", os.W_OK)
    (tmp_path / "file").touch()
    assert probe.machine(tmp_path / "file").free_storage is None


def test_two_that_share_a_folder_meet_in_it_and_others_do_not(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    probe.mark(here, "t", "driver").write_text("t")
    assert probe.meet(here, "t", "n1") == Storage(sees_ours=True, ours_sees_it=False)
    assert probe.mark(here, "t", "n1").read_text() == "t"
    assert probe.meet(there, "t", "n2") == Storage(False, False)
    assert probe.meet(tmp_path / "nowhere", "t", "n3").error.startswith("FileNotFoundError")
    for folder in (here, there):
        probe.remove_markers(folder, "t")
        assert list(folder.iterdir()) == []
