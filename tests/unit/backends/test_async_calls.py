"""The loop that SDKs are awaited in."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading

import pytest

from metaflow_extensions.sandbox.backends.async_calls import loop, settle
from metaflow_extensions.sandbox.errors import BackendUnavailable, CommandTimeout


async def double(number: int) -> int:
    """Twice the number, a turn of the loop later."""
    await asyncio.sleep(0)
    return 2 * number


async def named() -> str:
    """The thread that awaits."""
    return threading.current_thread().name


def test_answers_and_errors_come_back() -> None:
    """A lost exception makes a failed call look like a success."""

    async def fail() -> None:
        raise KeyError("mine")

    assert loop().call(double(4), 30) == 8
    assert loop().call(lambda: double(5), 30) == 10
    with pytest.raises(KeyError, match="mine"):
        loop().call(fail(), 30)


def test_one_loop_for_all_threads() -> None:
    """Objects of an SDK belong to one loop: a second one would hang on them."""
    names: list[str] = []
    threads = [threading.Thread(target=lambda: names.append(loop().call(named(), 30))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == ["async-calls"] * 8


def test_deadline_cancels() -> None:
    """A call that never ends must neither hang its caller nor go on."""
    ended = threading.Event()

    async def hang() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    with pytest.raises(CommandTimeout):
        loop().call(hang(), 0.05)
    assert ended.wait(30)


def test_time_out_of_the_call_itself_is_its_own() -> None:
    """A time-out that an SDK raises says something else than our deadline."""

    async def fail() -> None:
        raise TimeoutError("the SDK's")

    with pytest.raises(TimeoutError, match="the SDK's"):
        loop().call(fail(), 30)


def test_waiting_in_the_loop_is_refused() -> None:
    """The loop would wait for itself for ever."""

    async def nested() -> int:
        coroutine = double(1)
        try:
            return loop().call(coroutine, 30)
        finally:
            coroutine.close()

    with pytest.raises(ValueError, match="await instead"):
        loop().call(nested(), 30)


def test_a_forked_process_is_told() -> None:
    """After a fork no thread of the SDK is there to answer: it would hang."""
    loop().call(double(1), 30)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        coroutine = double(2)
        try:
            loop().call(coroutine, 30)
        except BackendUnavailable as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        assert "spawn" in said.read()
    assert os.waitpid(pid, 0)[1] == 0


def test_calls_of_soon_keep_their_order() -> None:
    """What is written to a command must not overtake what was written before."""
    seen: list[int] = []
    for number in range(100):
        loop().soon(seen.append, number)
    loop().call(double(0), 30)
    assert seen == list(range(100))


def test_settling_waits_for_whoever_is_at_work() -> None:
    """A thread of an SDK that passes something on to an interpreter that ends aborts it."""
    done = threading.Event()

    def work() -> None:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 400_000)  # without the interpreter's lock, as an SDK's
        done.set()

    threading.Thread(target=work, daemon=True).start()
    settle()
    assert done.is_set()
