from __future__ import annotations

import os
import subprocess
import sys

import pytest
import trio
import trio.testing

from daemon.processes import boot_id, process_started, wait_ended


def test_when_one_started() -> None:
    mine = process_started(os.getpid())
    assert mine is not None
    assert mine == process_started(os.getpid()) > 0
    assert process_started(1 << 30) is None


def test_a_boot_has_a_name() -> None:
    assert len(boot_id()) == 36
    assert boot_id() == boot_id()


async def test_the_end_of_one(nursery: trio.Nursery) -> None:
    program = await trio.lowlevel.open_process([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pidfd = os.pidfd_open(program.pid)
    try:
        assert program.stdin is not None
        nursery.start_soon(program.stdin.aclose)
        with trio.fail_after(30):
            await wait_ended(pidfd)
        assert await program.wait() == 1
    finally:
        os.close(pidfd)


@pytest.mark.skipif(sys.platform != "linux", reason="epoll")
async def test_what_is_left_of_a_closed_pipe_ends_nobody(nursery: trio.Nursery) -> None:
    """Its number is a pidfd's by now, and epoll tells of the pipe, which somebody else has open still."""
    number, write = os.pipe()
    theirs = os.dup(number)
    async with trio.open_nursery() as waiting:
        waiting.start_soon(trio.lowlevel.wait_readable, number)
        await trio.testing.wait_all_tasks_blocked()
        waiting.cancel_scope.cancel()
    program = await trio.lowlevel.open_process([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pidfd = os.pidfd_open(program.pid)
    os.dup2(pidfd, number)
    ended = trio.Event()

    async def watch() -> None:
        await wait_ended(number)
        ended.set()

    nursery.start_soon(watch)
    await trio.testing.wait_all_tasks_blocked()
    os.close(write)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert not ended.is_set()
    program.kill()
    with trio.fail_after(30):
        await ended.wait()
    for fd in (number, theirs, pidfd):
        os.close(fd)
    assert program.stdin is not None
    await program.stdin.aclose()
    await program.wait()
