"""The arguments of an emitter: name, type, default, unit, check and meaning of each, in one place.

From this table come the checks and defaults of `Emitter`, `AsyncEmitter`, `EmitterConfiguration`, `DeliverySettings`
and `QueueSettings`, the options of the drain that mirror an argument, and the table in README. Signatures are written
out all the same, for `inspect` and for type checkers: a test holds them against this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from durable_tracker.settings import checks

if TYPE_CHECKING:
    from durable_tracker.settings.checks import Check

Durability = Literal["always", "interval"]
OnFull = Literal["raise", "drop_newest", "drop_oldest", "block"]

BYTE_LIMIT: Final = 150_000
"""Default size of a request: collectors that buffer in SQS split one above 192,000 bytes, and answer 200."""

MAX_QUEUE_BYTES: Final = 1 << 30
MAX_QUEUE_BYTES_MIN: Final = 128 << 10

REQUEST_COUNT_MAX: Final = 500
"""Events in one request, unless `batch_size` says otherwise."""

_NOTHING: Final = MappingProxyType[Any, Any]({})
_CODES: Final = "Mapping[int, bool] | None"
_NO_EVENT_STORE: Final = "events are stored on disk; choose where with queue_dir=, how much with max_queue_bytes="


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument.

    Attributes:
        name: what the user writes.
        type: its annotation in a signature.
        default: its default in a signature.
        check: returns the value to use; raises ConfigurationError with a message that begins with the name that it is
            given. None: the module that reads the argument checks it, such as `Endpoint` the address.
        help: what it means, in one line.
        unit: of a number.
        stands_for: the value that the default None stands for, None if it stands for itself.
        default_text: the default for people, where neither the default nor what it stands for says it.
        is_official: whether the official tracker has it.
        is_backlogs: whether it belongs to a backlog: it goes on record in the queue, and whoever delivers keeps to it.
    """

    name: str
    type: str
    default: Any = None
    check: Check | None = None
    help: str
    unit: str = ""
    stands_for: Any = None
    default_text: str = ""
    is_official: bool = False
    is_backlogs: bool = False

    @property
    def usual(self) -> Any:
        """The value that is used if the argument is not given."""
        return self.default if self.stands_for is None else self.stands_for

    def value(self, given: Any, name: str | None = None) -> Any:
        """Return the value to use for one that was given; None stands for what it stands for.

        Args:
            given: the value.
            name: what the user wrote, if not the argument's name.

        Raises:
            ConfigurationError: it is not usable.
        """
        checked = given if self.check is None else self.check(name or self.name, given)
        return self.stands_for if checked is None else checked

    def in_words(self, value: Any) -> str:
        """Return a value for people, with its unit."""
        if value == self.usual and self.default_text:
            return self.default_text
        text = f"{value:_}" if isinstance(value, int) and not isinstance(value, bool) else repr(value).replace("'", '"')
        return f"{text} {self.unit}" if self.unit and value is not None else text


_ALL: Final = (
    Argument(
        name="protocol",
        type="str",
        default="https",
        help='"https" or "http"',
        is_official=True,
    ),
    Argument(
        name="port", type="int | None", help="the collector's port", default_text="the protocol's", is_official=True
    ),
    Argument(name="method", type="str", default="post", help='"post" or "get"', is_official=True),
    Argument(
        name="batch_size",
        type="int | None",
        check=checks.optional(checks.count),
        help="events in one request at most; as many that wait are sent without lingering",
        stands_for=REQUEST_COUNT_MAX,
        is_official=True,
    ),
    Argument(
        name="on_success",
        type="Callable[[list[dict[str, Any]]], object] | None",
        check=checks.optional(checks.function),
        help="called with the list of events (dicts) that were delivered, after they left the queue",
        is_official=True,
    ),
    Argument(
        name="on_failure",
        type="Callable[[int, list[dict[str, Any]]], object] | None",
        check=checks.optional(checks.function),
        help="called with the number of events delivered since the last such call and the list of events that will not"
        " be tried again",
        is_official=True,
    ),
    Argument(
        name="byte_limit",
        type="int | None",
        check=checks.optional(checks.count),
        help="bytes in one request at most: collectors behind SQS split above 192,000",
        stands_for=BYTE_LIMIT,
        is_official=True,
        is_backlogs=True,
    ),
    Argument(
        name="request_timeout",
        type="float | tuple[float, float] | None",
        check=checks.timeout,
        help="seconds, or (connect, read) seconds, as in requests",
        default_text="10 and 20 s",
        is_official=True,
    ),
    Argument(
        name="max_retry_delay_seconds",
        type="float",
        default=60,
        check=checks.seconds_above_0,
        help="the longest backoff",
        unit="s",
        is_official=True,
        is_backlogs=True,
    ),
    Argument(
        name="buffer_capacity",
        type="int | None",
        check=checks.optional(checks.count),
        help="pending events at most, beside the bound of `max_queue_bytes`",
        default_text="no bound",
        is_official=True,
    ),
    Argument(
        name="custom_retry_codes",
        type=_CODES,
        check=checks.optional(checks.retry_codes),
        help="HTTP status to True (try again) or False (set the event aside)",
        stands_for=_NOTHING,
        default_text="none",
        is_official=True,
        is_backlogs=True,
    ),
    Argument(
        name="event_store",
        type="None",
        check=checks.nothing(_NO_EVENT_STORE),
        help="refused; the queue on disk is the store",
        is_official=True,
    ),
    Argument(
        name="session",
        type="Session | None",
        check=checks.optional(checks.session),
        help="a `requests.Session`: its headers, auth, proxies, verify, cert and trust_env are read once, now",
        is_official=True,
    ),
    Argument(
        name="buffer_size",
        type="int | None",
        check=checks.optional(checks.count),
        help="the older spelling of `batch_size`",
        is_official=True,
    ),
    Argument(
        name="name",
        type="str | None",
        check=checks.optional(checks.text),
        help="the queue's name; emitters of one name and one address share a backlog",
        default_text="from the address",
    ),
    Argument(
        name="replaces",
        type="str | Sequence[str]",
        default=(),
        help="addresses of collectors whose backlogs go to this one from now on",
        default_text="none",
    ),
    Argument(
        name="queue",
        type="Engine | str | None",
        help="the engine that keeps the events, or its address",
        default_text="files of SQLite in `queue_dir`",
    ),
    Argument(
        name="queue_dir",
        type="str | os.PathLike[str] | None",
        help="where the queues are",
        default_text="`$DURABLE_TRACKER_DIR`, else the user's state directory",
    ),
    Argument(
        name="durability",
        type="Durability",
        default="always",
        check=checks.one_of(*get_args(Durability)),
        help='"always": a put is synced to disk before it returns; "interval": synced once a second',
    ),
    Argument(
        name="linger",
        type="float",
        default=0.1,
        check=checks.seconds,
        help="how long the first event waits for others; `batch_size` waiting events (10) go at once",
        unit="s",
    ),
    Argument(
        name="senders",
        type="int",
        default=1,
        check=checks.count,
        help="requests in flight at most; more for distant collectors (order is then approximate)",
    ),
    Argument(
        name="max_queue_bytes",
        type="int",
        default=MAX_QUEUE_BYTES,
        check=checks.at_least(MAX_QUEUE_BYTES_MIN),
        help="bound of the queue on disk, per slot",
        default_text="1 GiB",
    ),
    Argument(
        name="on_full",
        type="OnFull",
        default="raise",
        check=checks.one_of(*get_args(OnFull)),
        help='what a put does on a full queue or disk: "raise" QueueFullError, "drop_newest", "drop_oldest" or "block"',
    ),
    Argument(
        name="max_age",
        type="float | None",
        check=checks.optional(checks.seconds_above_0),
        help="seconds after which an undelivered event is dropped",
        unit="s",
        default_text="never",
        is_backlogs=True,
    ),
    Argument(
        name="headers",
        type="Mapping[str, str] | None",
        check=checks.optional(checks.mapping),
        help='sent with each request; kept in memory only. `User-Agent` is "durable-tracker" unless it is among them,'
        " or among those of the session, over which they win",
        stands_for=_NOTHING,
        default_text="none",
    ),
    Argument(
        name="drain",
        type="bool",
        default=True,
        check=checks.boolean,
        help="False leaves delivery to `python -m durable_tracker.drain`",
    ),
    Argument(
        name="shutdown_timeout",
        type="float",
        default=5.0,
        check=checks.seconds,
        help="how long the exit may wait for a healthy collector; never for an outage",
        unit="s",
    ),
    Argument(
        name="transport",
        type="Transport | None",
        check=checks.optional(checks.transport),
        help="carries events instead of HTTP: anything that keeps the `Transport` protocol",
        default_text="HTTP",
    ),
    Argument(
        name="report_retries",
        type="bool",
        default=False,
        check=checks.boolean,
        help="True calls `on_failure` also when an outage begins, and at most once a minute while it lasts",
    ),
    Argument(
        name="control",
        type="bool",
        default=True,
        check=checks.boolean,
        help="False makes no socket in `queue_dir`, by which commands such as `durable-tracker why` ask this process",
    ),
)

ARGUMENTS: Final = MappingProxyType({one.name: one for one in _ALL})
"""Each argument of `Emitter` but the address, in its order."""

BACKLOG: Final = tuple(one for one in _ALL if one.is_backlogs)
"""Those that go on record in a queue. `method` does too: it is part of the address."""
