"""A registry of trackers by their namespaces."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar

from durable_tracker.emitter_configuration import EmitterConfiguration
from durable_tracker.emitters import Emitter
from durable_tracker.errors import ConfigurationError, NamespaceTakenError
from durable_tracker.protocol.fields import shown
from durable_tracker.tracker import Tracker
from durable_tracker.tracker_configuration import TrackerConfiguration

if TYPE_CHECKING:
    from durable_tracker.subject import Subject


class Snowplow:
    """A registry of trackers by their namespaces, one for the whole process. Safe to use from any thread."""

    _lock: ClassVar[threading.RLock] = threading.RLock()
    _trackers: ClassVar[dict[str, Tracker]] = {}  # guarded by _lock

    @classmethod
    def create_tracker(
        cls,
        namespace: str,
        endpoint: str,
        method: str = "post",
        app_id: str | None = None,
        subject: Subject | None = None,
        tracker_config: TrackerConfiguration | None = None,
        emitter_config: EmitterConfiguration | None = None,
    ) -> Tracker:
        """Create a tracker with one emitter, register it, and return it.

        Args:
            namespace: the name of the tracker; no other registered one may have it.
            endpoint: the address of the collector.
            method: "post" or "get".
            app_id: the application.
            subject: who or what the events are about.
            tracker_config: the tracker's settings; the defaults without it.
            emitter_config: the emitter's settings; the defaults without it.

        Raises:
            ConfigurationError: the namespace is taken, or an argument is not usable.
        """
        if not isinstance(namespace, str) or not namespace:
            raise NamespaceTakenError(f"namespace must be text that is not empty, but is {shown(namespace)}")
        tracker_config = TrackerConfiguration() if tracker_config is None else tracker_config
        emitter_config = EmitterConfiguration() if emitter_config is None else emitter_config
        if not isinstance(tracker_config, TrackerConfiguration):
            raise ConfigurationError(f"tracker_config must be a TrackerConfiguration, but is {shown(tracker_config)}")
        if not isinstance(emitter_config, EmitterConfiguration):
            raise ConfigurationError(f"emitter_config must be an EmitterConfiguration, but is {shown(emitter_config)}")
        with cls._lock:
            cls._check_free(namespace)
            emitter = Emitter(endpoint, method=method, **emitter_config.arguments())
            return cls.add_tracker(
                Tracker(
                    namespace,
                    emitter,
                    subject,
                    app_id,
                    tracker_config.encode_base64,
                    tracker_config.json_encoder,
                    on_invalid=tracker_config.on_invalid,
                )
            )

    @classmethod
    def add_tracker(cls, tracker: Tracker) -> Tracker:
        """Register a tracker by its namespace, and return it.

        Raises:
            ConfigurationError: the namespace is taken, or it is no tracker.
        """
        if not isinstance(tracker, Tracker):
            raise ConfigurationError(f"tracker must be a Tracker, but is {shown(tracker)}")
        with cls._lock:
            cls._check_free(tracker.get_namespace())
            cls._trackers[tracker.get_namespace()] = tracker
        return tracker

    @classmethod
    def _check_free(cls, namespace: str) -> None:
        if namespace in cls._trackers:
            raise ConfigurationError(f"namespace {shown(namespace)} has a tracker already; get_tracker returns it")

    @classmethod
    def get_tracker(cls, namespace: str) -> Tracker | None:
        """Return the tracker of a namespace, or None if there is none."""
        with cls._lock:
            return cls._trackers.get(namespace)

    @classmethod
    def remove_tracker(cls, tracker: Tracker) -> None:
        """Forget a tracker, if it is registered. It goes on working, and what it queued is delivered."""
        with cls._lock:
            if cls._trackers.get(tracker.get_namespace()) is tracker:
                del cls._trackers[tracker.get_namespace()]

    @classmethod
    def remove_tracker_by_namespace(cls, namespace: str) -> None:
        """Forget the tracker of a namespace, if there is one. It goes on working, and what it queued is delivered."""
        with cls._lock:
            cls._trackers.pop(namespace, None)

    @classmethod
    def reset(cls) -> None:
        """Forget all trackers. They go on working, and what they queued is delivered."""
        with cls._lock:
            cls._trackers.clear()
