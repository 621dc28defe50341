"""One connection's life, and who drives it.

Whoever waits for a confirm drives the connection meanwhile (*leads*), and the others wait for it (*follow*). Python's
threads take as long to wake each other as the broker takes to answer: a lone sender wakes nobody. What no sender can
wait for (connecting, heartbeats while nobody sends, the end) is the work of one thread, the *keeper*.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final

import pika.exceptions

from jobkit.broker.confirmed_channel import ConfirmedChannel
from jobkit.broker.connection import Blocked, ConnectionSettings
from jobkit.broker.detours import Detours
from jobkit.broker.loop import Ready, SteppedLoop
from jobkit.broker.outgoing import Outgoing
from jobkit.broker.publishing_connection import PublishingConnection

#: Seconds in which the messages of a stream gather.
_GATHER: Final = 0.005

#: Messages of a stream that are written together, so that the broker works while the next are made.
_TOGETHER: Final = 64

#: Seconds between two looks of the keeper, a third of the heartbeat if that is shorter.
_LOOK: Final = 1.0

#: Seconds until a leader has noticed that the session is over.
_LEAVE: Final = 5.0

_LEADER: Final = "leader"

#: What pika raises on a connection that has died meanwhile.
_LOST: Final = (pika.exceptions.AMQPError, AssertionError)


class PublishSession:
    """A connection over which what waits is published (``ConfirmedChannel``).

    The keeper calls ``run``; other threads may append to what waits, and call everything else that is public.

    Args:
        connection: The broker.
        waiting: What is to be published, in this order. What has no confirm at the end of the session is put back.
        report: Told why the connection could not be had or was lost, and None when messages are taken.
        detours: Which services' exchanges do not take jobs now.
        left: Called when a leader has left, so that another of those that wait may lead.
    """

    def __init__(
        self,
        connection: ConnectionSettings,
        waiting: deque[Outgoing],
        report: Callable[[BaseException | None], None],
        detours: Detours | None = None,
        left: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = connection
        self._waiting = waiting
        self._report = report
        self._left = left
        self._loop = SteppedLoop()
        self._bell: SimpleQueue[None] = SimpleQueue()  # wakes up the keeper; no Event, as in ``Outgoing``
        self._seat: dict[str, object] = {}  # of the leader; no lock, which an interrupt could leave taken
        self._midway = False  # the leader is in code that must not be left half done
        self._broken = False  # a leader was interrupted there
        self._connection: PublishingConnection | None = None
        self._channel = ConfirmedChannel(connection, waiting, detours or Detours(), self._on_channel_open)
        self._heartbeat = math.inf  # in seconds
        self._gathered = 0
        self._ending = False
        self._ended = False
        self._was_taking = False

    @property
    def connected(self) -> bool:
        """Whether it has reached the broker."""
        return self._connection is not None

    @property
    def connecting(self) -> bool:
        """Whether its first connection attempt is still under way."""
        return not self._was_taking and not self._over

    @property
    def taking(self) -> bool:
        """Whether the broker takes messages over it."""
        return self._was_taking and not self._over

    def run(self) -> None:
        """Connect, and keep the connection until it is lost or hung up, or could not be had."""
        try:
            PublishingConnection.create_connection(self._settings.known_nodes(), self._on_connect_done, self._loop)
            while not self._over:
                if self._is_idle:
                    self._keep()
                elif not self._drive(self, lambda: self._is_idle or self._over, math.inf):
                    self._rest(_GATHER)  # a sender does it
        finally:
            self._ended = True
            self._loop.wake()
            self._await_leader()
            self._channel.take_back()
            if self._connection is not None:
                self._connection.drop()
            self._loop.close()

    def lead(self, message: Outgoing, deadline: float) -> bool:
        """Drive the connection until the message is settled, the session is over, or the deadline has passed.

        Returns:
            False if another thread drives it, or it takes no messages. The caller has to wait instead.
        """
        return self.taking and self._drive(message, lambda: message.settled or self._over, deadline)

    def gather(self) -> None:
        """Publish what waits when enough has come, or after some milliseconds."""
        self._gathered += 1
        if self._gathered >= _TOGETHER:
            self._gathered = 0
            self.look()
        elif len(self._waiting) == 1:
            self._bell.put(None)

    def look(self) -> None:
        """Write what waits and read what has come, without waiting for anything."""
        if self.taking and not self._drive(object(), lambda: True, 0.0):
            self._loop.wake()

    def wake(self) -> None:
        """Let the leader publish what has come to wait."""
        self._loop.wake()

    def give_up_waiting(self) -> None:
        """Somebody has waited for a confirm in vain, and marked the batch as abandoned."""
        self._call(self._channel.doubt)

    def hang_up(self) -> None:
        """Close the connection, which ends ``run``; one that is still being made, when it is there."""
        self._call(self._end)

    @property
    def _over(self) -> bool:
        return self._ended or self._broken

    @property
    def _is_idle(self) -> bool:
        """Whether it can be left to the senders: it is open, and they read its confirms."""
        return self._was_taking and not self._ending and self._channel.is_open

    def _call(self, what: Callable[[], None]) -> None:
        self._loop.add_callback(what)
        self._bell.put(None)

    def _keep(self) -> None:
        """Look after a connection that nobody may be driving: heartbeats, alarms, its end, what has gathered."""
        if self._rest(min(_LOOK, self._heartbeat / 3)) and self._waiting:
            time.sleep(_GATHER)
        self.look()

    def _rest(self, seconds: float) -> bool:
        """Return whether the bell was rung within ``seconds``."""
        try:
            self._bell.get(timeout=seconds)
        except Empty:
            return False
        with suppress(Empty):
            while True:
                self._bell.get_nowait()
        return True

    def _drive(self, leader: object, until: Callable[[], bool], deadline: float) -> bool:
        """Exchange data with the broker, unless another thread does; once at least.

        The calling thread may be interrupted at any point, as by a time limit. In the middle of a step that leaves the
        connection in an unknown state: the keeper then ends the session, and all that was not confirmed is published
        again over the next one.
        """
        try:
            if self._seat.setdefault(_LEADER, leader) is not leader or self._over:
                return False
            timeout = 0.0 if until() else deadline - time.monotonic()
            while True:
                self._midway = True
                self._channel.publish()
                self._flush()
                self._midway = False
                ready = self._loop.wait(timeout)
                self._midway = True
                self._read(ready)
                self._flush()
                self._midway = False
                if until() or (timeout := deadline - time.monotonic()) <= 0:
                    return True
        except _LOST as error:
            if not self._midway:  # it is not pika's
                raise
            self._report(error)
            return True
        finally:
            # Asynchronous exceptions land at calls: there is none until the seat is free.
            try:
                leads = self._seat[_LEADER] is leader
            except KeyError:  # another thread has left it just now
                leads = False
            if leads:
                if self._midway:
                    self._broken = True
                del self._seat[_LEADER]
                if self._broken:
                    self._bell.put(None)
                self._left()

    def _flush(self) -> None:
        if self._connection is not None:
            self._connection.flush()

    def _read(self, ready: Ready) -> None:
        connection = self._connection
        if connection is not None:
            ready = [(fd, events) for fd, events in ready if events != SteppedLoop.READ or not connection.receive(fd)]
        self._loop.dispatch(ready)

    def _await_leader(self) -> None:
        end = time.monotonic() + _LEAVE
        while self._seat and time.monotonic() < end:
            self._rest(_GATHER)

    # Any: pika hands over a connection or one of several exception types that share no base.
    def _on_connect_done(self, outcome: Any) -> None:
        if isinstance(outcome, BaseException):
            self._report(outcome)
            self._ended = True
            return
        self._connection = outcome
        self._heartbeat = outcome.params.heartbeat or math.inf  # as it was agreed on; 0: there is none
        self._settings.note_answer(outcome.params)
        outcome.add_on_close_callback(self._on_connection_closed)
        # RabbitMQ says so at the first publish while it is short of memory or disk, and reads nothing more until then.
        outcome.add_on_connection_blocked_callback(self._on_blocked)
        outcome.add_on_connection_unblocked_callback(lambda _connection, _frame: self._report(None))
        if self._ending:
            self._end()
        else:
            self._channel.open(outcome)

    def _end(self) -> None:
        self._ending = True
        # Pika leaves the socket of an attempt to the garbage collector if its loop is stopped meanwhile.
        if self._connection is not None and self._connection.is_open:
            self._connection.close()

    def _on_connection_closed(self, _connection: Any, reason: BaseException) -> None:
        self._report(reason)
        self._ended = True
        self._bell.put(None)

    def _on_channel_open(self) -> None:
        self._report(None)
        self._was_taking = True
        self._bell.put(None)  # something may wait that nobody waits for yet

    # Any: pika's frames carry their method without a type.
    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self._report(Blocked(str(frame.method.reason)))
