"""Structured logs: every line that a job causes says which job it was."""

import json
import logging
import logging.config
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

import structlog
from dramatiq import Broker, Message
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware
from structlog.tracebacks import ExceptionDictTransformer

from jobkit import compact_json, telemetry
from jobkit.errors import LONGEST_TRACEBACK, NewerContract, PermanentError, text_of, traceback_of
from jobkit.execution import Execution, Verdict, current
from jobkit.middleware.breakers import CircuitOpen

#: Without the values of local variables: a payload may hold what nobody should read.
_structured = ExceptionDictTransformer(show_locals=False, max_frames=20)

LogStyle = Literal["json", "console"]

log = logging.getLogger("jobkit.jobs")

#: Dramatiq logs the arguments of each call, which are the payload.
_PAYLOAD = "Received args="
#: What Dramatiq logs of each message repeats what ``Logs`` says, with the payload in it.
_REPEATED = ("Failed to process message", "Message ", "Received message")


def configure_logging(style: LogStyle, level: str) -> None:
    """Send all logs of this process to standard error, one line each, as JSON or for people."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_job,
    ]
    last: list[structlog.typing.Processor] = (
        [_structured_traceback, structlog.processors.JSONRenderer()]
        if style == "json"
        else [_plain_traceback, structlog.dev.ConsoleRenderer(colors=False)]
    )
    formatter = (_JsonLines if style == "json" else structlog.stdlib.ProcessorFormatter)(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = _Handler(sys.stderr)
    handler.setFormatter(formatter)
    # No line names them, and each costs a look.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("dramatiq.worker.WorkerThread").addFilter(_is_not_repeated)
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # every failed attempt, several times; we say it once
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


class _JsonLines(structlog.stdlib.ProcessorFormatter):
    """The same lines in less time, for records that hold a text and nothing else: a job causes at least one."""

    def format(self, record: logging.LogRecord) -> str:
        is_plain = isinstance(record.msg, str) and record.__dict__.keys() == _PLAIN and not record.exc_info
        if not is_plain or record.stack_info or structlog.contextvars.get_contextvars():
            return super().format(record)
        now = datetime.now(UTC).isoformat()
        event: MutableMapping[str, Any] = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": now.removesuffix("+00:00") + "Z",
        }
        return compact_json.encode(_add_job(None, "", event)).decode()


#: What every record has. Structlog takes for its own whatever else there is.
_PLAIN: Final = logging.LogRecord("", 0, "", 0, "", None, None).__dict__.keys()


def _exception_of(event: MutableMapping[str, Any]) -> BaseException | None:
    """Take the exception out of a log event: it is rendered here, as its text may be of any length or fail."""
    given = event.pop("exc_info", None)
    if given is True:
        given = sys.exc_info()
    error = given[1] if isinstance(given, tuple) else given
    return error if isinstance(error, BaseException) else None


def _plain_traceback(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    error = _exception_of(event)
    if error is not None:
        event["exception"] = traceback_of(error).rstrip()
    return event


def _structured_traceback(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    error = _exception_of(event)
    if error is None:
        return event
    try:
        told = _structured((type(error), error, error.__traceback__))
        short = len(json.dumps(told)) <= 2 * LONGEST_TRACEBACK
        event["exception"] = told if short else traceback_of(error)
    except BaseException:  # groups nested too deep, or an exception whose own code fails
        event["exception"] = traceback_of(error)
    return event


class _Handler(logging.StreamHandler[TextIO]):
    """A stream handler whose lock an interrupt cannot leave behind.

    On Python 3.11 the standard one takes its lock in a function of its own. An interrupt of a job that logs can land
    between that and the block that frees it, and then every thread of the worker waits for it for ever.
    """

    def handle(self, record: logging.LogRecord) -> bool:
        lock = self.lock
        if lock is None or _is_payload(record) or not self.filter(record):
            return False
        _leave_payloads_out(record)
        with lock:
            self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        gathered: list[str] | None = getattr(_gathered, "lines", None)
        if gathered is None:
            super().emit(record)
            return
        try:
            gathered.append(self.format(record) + self.terminator)
        except Exception:
            self.handleError(record)

    def write(self, lines: str) -> None:
        """Write lines that were gathered; raises nothing, because whoever logs has more to do than that."""
        lock = self.lock
        if lock is not None:
            with lock, suppress(Exception):  # the disk is full, or nobody reads: so they would have been lost singly
                self.stream.write(lines)
                self.stream.flush()

    def flush(self) -> None:
        lock = self.lock
        if lock is not None:
            with lock:
                self.stream.flush()


_gathered = threading.local()


@contextmanager
def together() -> Iterator[Callable[[], None]]:
    """Write what this thread logs in here in one piece: at the end, and when the function that it gives is called."""
    lines: list[str] = []
    handler = next((one for one in logging.getLogger().handlers if isinstance(one, _Handler)), None)

    def write() -> None:
        if lines and handler is not None:
            handler.write("".join(lines))
            lines.clear()

    if handler is not None:
        _gathered.lines = lines
    try:
        yield write
    finally:
        _gathered.lines = None
        write()


class LogFormat(Middleware):
    """Sets up logging in the worker process, after Dramatiq has."""

    def __init__(self, style: LogStyle, level: str) -> None:
        self._style = style
        self._level = level

    def after_process_boot(self, broker: Broker) -> None:
        configure_logging(self._style, self._level)


def lines(execution: Execution) -> Iterator[None]:
    """Put job id, actor, attempt and queue on every log line of a run, and say in one line how it ended."""
    structlog.contextvars.clear_contextvars()  # what the job before has bound to its lines
    try:
        yield
    finally:
        _say_how_it_ended(execution)


def _say_how_it_ended(execution: Execution) -> None:
    ended = execution.ended
    if ended is None or execution.lease is None:
        log.info("job not run: %s", ended.verdict.value if ended else Verdict.HANDED_BACK.value)
        return
    error, delay = ended.error, ended.delay.total_seconds()
    shown = ended.shown or error
    text = text_of(shown) if shown else ""
    match ended.verdict:
        case Verdict.COMPLETED:
            log.info("job completed")
        case Verdict.RETRIED:
            log.warning("job failed, runs again in %.0f s: %s", delay, text, exc_info=error)
        case Verdict.SNOOZED if isinstance(error, CircuitOpen | NewerContract):
            log.debug("job runs again in %.0f s: %s", delay, text)  # said once for all that wait like it
        case Verdict.SNOOZED:
            log.info("job asked to run again in %.0f s: %s", delay, text)
        case Verdict.DIED:
            # A permanent error was raised on purpose, and its dead letter holds the traceback.
            trace = None if isinstance(shown, PermanentError) and not execution.was_dropped else error
            where = ", dropped without a dead letter" if execution.was_dropped else ""
            log.error("job died (%s)%s: %s", ended.reason, where, text, exc_info=trace)
        case _:
            log.warning("job handed back: %s", text or "its lease or the store is gone")


def _add_job(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # Any: structlog's own signature of a processor.
    execution = current()
    if execution is not None:
        event["job_id"], event["actor"] = execution.job.id, execution.job.actor
        event["queue"], event["attempt"] = execution.message.queue_name, execution.attempt
    trace_id = telemetry.trace_id()
    if trace_id:
        event["trace_id"] = trace_id
    return event


def _is_payload(record: logging.LogRecord) -> bool:
    return isinstance(record.msg, str) and record.msg.startswith(_PAYLOAD)


def _leave_payloads_out(record: logging.LogRecord) -> None:
    """Name a message by its actor and id: the text of Dramatiq's class is its whole payload."""
    if isinstance(record.args, tuple) and any(isinstance(one, Message | MessageProxy) for one in record.args):
        record.args = tuple(
            f"{one.actor_name} {one.message_id}" if isinstance(one, Message | MessageProxy) else one
            for one in record.args
        )


def _is_not_repeated(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.CRITICAL or not str(record.msg).startswith(_REPEATED)
