from __future__ import annotations

import os

import pytest

from rrd_cli import sources
from rrd_cli.errors import CliError, UsageError


@pytest.fixture(autouse=True)
def _in_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_what_is_a_file_and_what_is_a_name():
    assert all(map(sources.is_file_name, ("run.rrd", "./demo", "../demo", "/a/b", "a/b.rrd")))
    assert not any(map(sources.is_file_name, ("demo", "@live", "stream:1", "-")))


def test_a_word_with_a_slash_is_the_file_that_is_there_else_a_recording(tmp_path):
    assert sources.resolve(["app/recording"]) == ["app/recording"]
    (tmp_path / "app").mkdir()
    assert not sources.is_file_name("app/recording")
    (tmp_path / "app/recording").touch()
    assert sources.resolve(["app/recording"]) == [str(tmp_path / "app/recording")]
    (tmp_path / "app/lost").symlink_to("nowhere")
    with pytest.raises(CliError, match="no such file: app/lost"):
        sources.resolve(["app/lost"])


def test_files_become_absolute_and_names_stay(tmp_path):
    for name in ("a.rrd", "with space\nand newline.rrd", "-"):
        (tmp_path / name).touch()
    assert sources.resolve(["a.rrd", "demo", "@latest", "with space\nand newline.rrd", "./-"]) == [
        str(tmp_path / "a.rrd"), "demo", "@latest", str(tmp_path / "with space\nand newline.rrd"), str(tmp_path / "-"),
    ]  # fmt: skip


def test_what_cannot_be_read_is_said(tmp_path):
    os.mkfifo("pipe.rrd")
    (tmp_path / "dir.rrd").mkdir()
    for word, message in {
        "missing.rrd": "no such file: missing.rrd",
        "pipe.rrd": "a named pipe, not a file: pipe.rrd",
        "dir.rrd": "a directory, not a file: dir.rrd",
        "/dev/null": "a device or socket, not a file: /dev/null",
        "./dir.rrd/../a.rrd/b": "no such file: ./dir.rrd/../a.rrd/b",
    }.items():
        with pytest.raises(CliError) as caught:
            sources.resolve([word])
        assert caught.value.message == message


def test_permission_is_looked_at(tmp_path, monkeypatch):
    (tmp_path / "a.rrd").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read everything
    with pytest.raises(CliError, match=r"Permission denied: a\.rrd"):
        sources.resolve(["a.rrd"])


def test_standard_input_goes_alone():
    assert sources.resolve(["-"]) == ["-"]
    with pytest.raises(UsageError):
        sources.resolve(["-", "@live"])


def test_targets(tmp_path):
    assert sources.target("x/run.rrd") == str(tmp_path / "x/run.rrd")
    assert sources.target("./-") == str(tmp_path / "-")
    with pytest.raises(UsageError, match="OUT must be a file"):
        sources.target("-")
    with pytest.raises(UsageError, match="a directory"):
        sources.target(".")


class TestStdin:
    @pytest.fixture
    def stdin(self):
        """Put another file at descriptor 0."""
        saved = os.dup(0)
        yield lambda fd: os.dup2(fd, 0)
        os.dup2(saved, 0)
        os.close(saved)

    def test_a_pipe_is_handed_on_as_it_is(self, stdin):
        read_end, write_end = os.pipe()
        stdin(read_end)
        with sources.stdin_pipe() as pipe:
            assert pipe == 0
        os.close(read_end)
        os.close(write_end)

    def test_a_file_becomes_a_pipe(self, stdin, tmp_path):
        data = os.urandom(300_000)
        (tmp_path / "x").write_bytes(data)
        fd = os.open("x", os.O_RDONLY)
        stdin(fd)
        os.close(fd)
        with sources.stdin_pipe() as pipe:
            received = b""
            while piece := os.read(pipe, 65536):
                received += piece
        assert received == data

    def test_a_directory_is_refused(self, stdin):
        fd = os.open(".", os.O_RDONLY)
        stdin(fd)
        os.close(fd)
        with pytest.raises(CliError, match="standard input is a directory"), sources.stdin_pipe():
            pass

    def test_a_terminal_is_refused(self, stdin):
        import pty

        primary, secondary = pty.openpty()
        stdin(secondary)
        with pytest.raises(UsageError, match="terminal"), sources.stdin_pipe():
            pass
        os.close(primary)
        os.close(secondary)
