"""The one door to other programs."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from abupdate.errors import DeviceFaultError, ProgramError
from abupdate.run import Sandbox, run, stream


def test_output_and_exit_code() -> None:
    done = run(["sh", "-c", "cat; echo lost >&2; exit 3"], stdin=b"a\0\xff\n", ok=(3,))
    assert (done.code, done.stdout, done.stderr) == (3, b"a\0\xff\n", "lost\n")


def test_arguments_keep_every_byte(tmp_path: Path) -> None:
    name = b"\xff \n'\"$x"
    done = run(["printf", "%s", name])
    assert done.stdout == name


def test_failure_carries_the_whole_error_text() -> None:
    with pytest.raises(ProgramError, match="exit code 4") as caught:
        run(["sh", "-c", "for i in $(seq 300); do echo line $i >&2; done; exit 4"])
    assert "line 1\n" in caught.value.stderr
    assert "line 300" in caught.value.stderr
    assert caught.value.exit_code == 11


def test_a_missing_program_says_what_to_install() -> None:
    with pytest.raises(ProgramError, match="no-such-program-here not found"):
        run(["no-such-program-here"])


def test_a_missing_program_is_named_whoever_is_to_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abupdate.run.SEARCH_PATH", "/nowhere")
    with pytest.raises(ProgramError, match=r"^'git status' failed: git not found") as caught:
        run(["git", "status"], sandbox=Sandbox("65534"))
    assert "in Debian: git" in (caught.value.hint or "")


def test_an_error_begins_with_what_was_wanted_not_with_its_limits() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root for another user")
    with pytest.raises(ProgramError, match=r"^'sh -c exit 4' ended with exit code 4"):
        run(["sh", "-c", "exit 4"], sandbox=Sandbox("65534"))


def test_a_program_gets_no_more_memory_than_we_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--as=600000000" in Sandbox("nobody").prefix()
    monkeypatch.setattr("resource.getrlimit", lambda _: (1, 1000))
    assert "--as=1000" in Sandbox("nobody").prefix()


@pytest.mark.parametrize("which", [1, 2, 3, 4])
def test_no_memory_for_a_thread_is_told_and_nothing_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, which: int
) -> None:
    start, started = threading.Thread.start, []

    def failing(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) == which:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", failing)
    with pytest.raises(DeviceFaultError, match="not enough memory to run another program"):
        run(["sh", "-c", f"sleep 1; touch {tmp_path}/done"])
    monkeypatch.undo()
    time.sleep(1.2)
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_hangs_is_ended() -> None:
    start = time.monotonic()
    with pytest.raises(ProgramError, match="not finished after"):
        run(["sleep", "60"], timeout=0.5)
    assert time.monotonic() - start < 20


def test_a_signal_is_named() -> None:
    with pytest.raises(ProgramError, match="signal 9"):
        run(["sh", "-c", "kill -9 $$"])


def test_environment_is_scrubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    words = run(["env"], env={"EXTRA": "1"}).stdout.decode().split()
    assert "EXTRA=1" in words
    assert not any(word.startswith(("GIT_DIR", "LANG=")) for word in words)


def test_stream_carries_bulk_both_ways() -> None:
    data = bytes(range(256)) * 4096
    with stream(["cat"], stdin=True, stdout=True) as cat:
        cat.stdin.write(data[:65536])
        cat.stdin.close()
        assert cat.stdout.read() == data[:65536]
        cat.finish()


def test_stream_failure_has_error_text() -> None:
    with (
        pytest.raises(ProgramError, match="broken input"),
        stream(["sh", "-c", "echo broken input >&2; exit 1"], stdout=True) as program,
    ):
        program.finish()


def test_leaving_a_stream_ends_the_program(tmp_path: Path) -> None:
    start = time.monotonic()
    with stream(["sleep", "60"], stdout=True):
        pass
    assert time.monotonic() - start < 20
