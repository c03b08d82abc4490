"""`make demo` where it runs: as root, as nobody, in a guest with a kernel ESP, without privileges."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from as_nobody import AS_NOBODY, NOBODY, readable, readable_python
from demo.demo_checks import (
    COUNT,
    ROOT,
    check_document,
    check_second_decoder,
    check_tshark,
    kernel_has_esp,
    run_demo,
)

from ikev2.embedding import probe_namespaces
from interop.lab import uml


def needs_namespaces() -> None:
    probe = probe_namespaces()
    if not probe.ok:
        pytest.skip(f"no network namespaces here: {probe.reason}")


def needs_tshark() -> None:
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")


@pytest.mark.netns
@pytest.mark.tshark
@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_two_processes_in_two_namespaces(mode: str, tmp_path: Path) -> None:
    needs_namespaces()
    needs_tshark()
    demo = run_demo(tmp_path / "report", "--mode", mode)
    check_document(demo.document, "xfrm" if kernel_has_esp() else "userspace")
    assert demo.document["place"].startswith("two processes")
    assert demo.document["ike_sa"]["children"][0]["mode"] == mode
    check_tshark(demo, tmp_path)
    check_second_decoder(demo)


@pytest.mark.netns
def test_it_can_be_run_twice_into_the_same_folder(tmp_path: Path) -> None:
    needs_namespaces()
    first = run_demo(tmp_path / "report")
    second = run_demo(tmp_path / "report")
    assert first.document["ok"]
    assert second.document["ok"]
    assert first.document["ike_sa"]["spi_i"] != second.document["ike_sa"]["spi_i"]


@pytest.mark.netns
def test_as_nobody_in_an_unprivileged_user_namespace(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two processes and a TUN device, not the memory backend: falling back where TUN works is a failure."""
    if os.geteuid() != 0:
        pytest.skip("becoming nobody takes root; as another user the first test has run unprivileged already")
    directory = readable(tmp_path_factory.mktemp("nobody"))
    report = directory / "report"
    report.mkdir()
    os.chown(report, int(NOBODY), int(NOBODY))
    as_nobody = AS_NOBODY
    if subprocess.run([*as_nobody, "unshare", "-Urnm", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this kernel does not let nobody make a user namespace")
    python, environment = readable_python(directory)
    demo = run_demo(report, prefix=as_nobody, python=python, environment={**environment, "HOME": str(report)},
                    cwd=directory)  # fmt: skip
    check_document(demo.document, "xfrm" if kernel_has_esp() else "userspace")
    assert demo.document["place"].startswith("two processes")


@pytest.mark.uml
@pytest.mark.tshark
def test_in_a_guest_whose_kernel_has_esp(tmp_path: Path) -> None:
    """The Child SA is in the kernel, and `ip -s xfrm state` counts the packets of the measurement inside it."""
    reason = uml.why_not()
    if reason is not None:
        pytest.skip(reason)
    needs_tshark()
    guest = ("python", "-m", "interop.lab.uml", "-t", "110", "-p", "-w", str(tmp_path), "--")
    demo = run_demo(tmp_path / "report", prefix=(sys.executable, *guest[1:]))
    check_document(demo.document, "xfrm")
    assert demo.document["place"].startswith("two processes")
    child = demo.document["ike_sa"]["children"][0]
    counted = kernel_packets((tmp_path / "report" / "a" / "xfrm-state.txt").read_text())
    inside = demo.document["runs"][2]["child_sa"]
    assert counted[child["spi_out"]] >= inside["packets_out"] >= COUNT
    assert counted[child["spi_in"]] >= inside["packets_in"] >= COUNT
    check_tshark(demo, tmp_path)
    check_second_decoder(demo)


def kernel_packets(text: str) -> dict[str, int]:
    """SPI -> packets, from the output of `ip -s xfrm state`."""
    head = r"proto esp spi 0x([0-9a-f]{8})\(\d+\) reqid \d+\(0x[0-9a-f]+\) mode \w+\n\s+replay-window"
    found = re.findall(head + r".*?lifetime current:\s+\d+\(bytes\), (\d+)\(packets\)", text, re.DOTALL)
    return {spi: int(packets) for spi, packets in found}


def test_without_privileges_both_hosts_are_in_one_process(tmp_path: Path) -> None:
    demo = run_demo(tmp_path / "report", "--backend", "memory")
    check_document(demo.document, "memory")
    assert demo.document["place"].startswith("one process")
    check_second_decoder(demo)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    command = [sys.executable, "-m", "binding", "demo", "--report", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_demo_of_no_packets_is_refused_before_it_makes_anything(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "binding", "demo", "--count", "0", "--report", str(tmp_path / "report")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "0 is not in the range x>=1" in done.stderr
    assert not (tmp_path / "report").exists()
