"""What all contestants are: something that starts, makes sessions that run code, and stops."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager


class RunFailed(Exception):
    """A run that should have succeeded did not; nothing measured with it would mean anything."""


class Session(ABC):
    """One place where code runs."""

    @abstractmethod
    async def run(self, code: str) -> str:
        """Run code until its result and all its output are here; what it wrote to stdout.

        Raises RunFailed for code that raised.
        """

    @abstractmethod
    async def close(self) -> None:
        """End it; nothing of it runs any more."""


class Contestant(ABC):
    """A way to run code. `name` is what the table says."""

    name: str

    async def start(self) -> None:
        """Get ready to make sessions."""
        return

    async def stop(self) -> None:
        """End everything that was started, sessions included."""
        return

    async def settle(self) -> None:
        """Return when nothing is going on in the background."""
        return

    @abstractmethod
    async def create(self) -> Session:
        """Make a session that takes code."""

    async def first_result(self) -> Session:
        """Make a session and have its first result; the session."""
        session = await self.create()
        await first_run(session)
        return session


async def first_run(session: Session) -> None:
    """Run code with a result, and see that it is the right one."""
    written = await session.run("print(1)")
    if written.strip() != "1":
        raise RunFailed(f"print(1) wrote {written!r}")


@asynccontextmanager
async def running(*contestants: Contestant) -> AsyncIterator[None]:
    """Started for the block; stopped behind it, however it ends."""
    async with AsyncExitStack() as stack:
        for contestant in contestants:
            # First, for what a start leaves that did not come to its end.
            stack.push_async_callback(contestant.stop)
            await contestant.start()
        yield


@asynccontextmanager
async def sessions(contestant: Contestant, count: int = 1) -> AsyncIterator[list[Session]]:
    """That many sessions for the block, each with a first result behind it."""
    made: list[Session] = []
    try:
        while len(made) < count:
            made.append(await contestant.first_result())
        yield made
    finally:
        await asyncio.gather(*(session.close() for session in made))
