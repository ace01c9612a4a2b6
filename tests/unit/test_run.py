"""The one door to other programs."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from abupdate.errors import DeviceFaultError, ProgramError, TerminatedError
from abupdate.run import Sandbox, run, run_small, stream


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


def test_no_memory_for_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **_more: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr("abupdate.run.subprocess.Popen", failing)
    for begin in (lambda: run(["true"]), lambda: stream(["true"]).__enter__()):
        with pytest.raises(DeviceFaultError, match="not enough memory to run another program"):
            begin()


class TestThroughSh:
    def test_nothing_is_said_of_what_went_well(self, tmp_path: Path) -> None:
        run_small("touch", tmp_path / b"\xff \n'\"$x".decode("utf-8", "surrogateescape"))
        assert [os.fsencode(path.name) for path in tmp_path.iterdir()] == [b"\xff \n'\"$x"]

    def test_its_error_text_is_whole(self) -> None:
        with pytest.raises(ProgramError, match="exit code 4") as caught:
            run_small("sh", "-c", "for i in $(seq 300); do echo line $i >&2; done; exit 4")
        assert "line 1\n" in caught.value.stderr
        assert "line 300" in caught.value.stderr

    def test_a_signal_is_named(self) -> None:
        with pytest.raises(ProgramError, match="signal 9"):
            run_small("sh", "-c", "kill -9 $$")

    def test_one_that_hangs_is_ended(self) -> None:
        with pytest.raises(ProgramError, match="not finished after"):
            run_small("sleep", "60", timeout=0.5)

    def test_its_environment_is_scrubbed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GREETING", "hello")
        run_small("sh", "-c", "test -z $GREETING")

    def test_a_signal_to_us_ends_it(self) -> None:
        def stop(*_: object) -> None:
            raise TerminatedError("stopped")

        before = signal.signal(signal.SIGALRM, stop)
        run_small("true")  # all is loaded then: the signal comes while the program runs
        signal.setitimer(signal.ITIMER_REAL, 2)
        try:
            with pytest.raises(TerminatedError):
                run_small("sleep", "61.25")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        for _ in range(100):
            if run(["pgrep", "-f", "^/.*sleep 61.25"], ok=(0, 1)).code == 1:
                return
            time.sleep(0.1)
        raise AssertionError("The program runs on.")

    def test_no_memory_for_a_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def failing(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", failing)
        with pytest.raises(DeviceFaultError, match="not enough memory to run another program"):
            run_small("true")


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
