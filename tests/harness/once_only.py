"""Idempotency as it is usually written for Dramatiq: a mark for what is done, and ``SkipMessage``."""

from dramatiq import Broker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware, SkipMessage
from redis import Redis


class OnceOnly(Middleware):
    """Skips what has been done."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        if self._client.exists(f"done:{message.message_id}"):
            raise SkipMessage("done already")

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: object = None, exception: BaseException | None = None
    ) -> None:
        self._client.set(f"done:{message.message_id}", 1)
