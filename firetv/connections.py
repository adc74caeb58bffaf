"""Connections that are cut when a client is too slow: one that is kept open costs the others.

uvicorn waits without end for the rest of a request, and for a client to read an answer.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS_TO_ASK = 10.0  # from the first byte of a request, or a new connection, to its last byte
SECONDS_TO_READ = 10.0  # until a client has read enough of an answer that more can be written
UNFINISHED = (h11.IDLE, h11.SEND_BODY)


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 of uvicorn that gives a client so many seconds to ask, and to read the answer."""

    _asking: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._asking = self.loop.call_later(SECONDS_TO_ASK, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a request, if it is not whole yet."""
        super().data_received(data)
        if self.conn.their_state not in UNFINISHED:
            self._stop("_asking")
        elif self._asking is None:
            self._asking = self.loop.call_later(SECONDS_TO_ASK, self.transport.abort)

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._reading = self.loop.call_later(SECONDS_TO_READ, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        super().resume_writing()
        self._stop("_reading")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._stop("_asking")
        self._stop("_reading")
        super().connection_lost(exc)

    def _stop(self, timer: str) -> None:
        if getattr(self, timer) is not None:
            getattr(self, timer).cancel()
            setattr(self, timer, None)
