"""Who or what an event is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from durable_tracker.errors import InvalidEventError
from durable_tracker.protocol.fields import DEFAULT_PLATFORM, INT32_MAX, integer_value, shown, wire_value
from durable_tracker.runtime.elsewhere import names_from_elsewhere

if TYPE_CHECKING:
    from typing import Self


class Subject:
    """The user, device and platform that events are about.

    A tracker has one, and an event may have its own: that one is laid over the tracker's, field by field, and only
    what was set on it explicitly overrides. In particular a subject whose platform nobody set keeps the tracker's.

    All setters check their value at once, return the subject, and clear the field if given None.

    Attributes:
        standard_nv_pairs: the fields by their names in the protocol.
    """

    def __init__(self) -> None:
        self.standard_nv_pairs: dict[str, Any] = {"p": DEFAULT_PLATFORM}
        self._platform_was_set = False

    def _set(self, field: str, value: object) -> Self:
        text = wire_value(field, value)
        if value is None:
            self.standard_nv_pairs.pop(field, None)
        else:
            self.standard_nv_pairs[field] = value if type(value) in (str, int, float) else text
        return self

    def set_platform(self, value: str) -> Self:
        """Set the platform: web, mob, pc, srv, app, tv, cnsl, iot or headset.

        Raises:
            InvalidEventError: it is none of these.
        """
        if value is None:
            raise InvalidEventError("p", "must be a platform, but is None")
        self._set("p", value)
        self._platform_was_set = True
        return self

    def set_user_id(self, user_id: str | None) -> Self:
        """Set the business's own id of the user, up to 255 characters."""
        return self._set("uid", user_id)

    def set_screen_resolution(self, width: int, height: int) -> Self:
        """Set the size of the screen in pixels, each above 0."""
        return self._set("res", _dimensions("res", width, height))

    def set_viewport(self, width: int, height: int) -> Self:
        """Set the size of the viewport in pixels, each above 0."""
        return self._set("vp", _dimensions("vp", width, height))

    def set_color_depth(self, depth: int | None) -> Self:
        """Set the depth of colour of the screen in bits."""
        return self._set("cd", depth)

    def set_timezone(self, timezone: str | None) -> Self:
        """Set the time zone by its IANA name, such as Europe/London."""
        return self._set("tz", timezone)

    def set_lang(self, lang: str | None) -> Self:
        """Set the language, such as en."""
        return self._set("lang", lang)

    def set_domain_user_id(self, duid: str | None) -> Self:
        """Set the id from the first-party cookie, up to 128 characters."""
        return self._set("duid", duid)

    def set_domain_session_id(self, sid: str | None) -> Self:
        """Set the id of the session.

        Raises:
            InvalidEventError: it is not a UUID; the pipeline would fail the event (Enrich: conversions).
        """
        return self._set("sid", sid)

    def set_domain_session_index(self, vid: int | None) -> Self:
        """Set the number of the session, an integer of 32 bits.

        Raises:
            InvalidEventError: it is not; the pipeline would fail the event (Enrich: conversions).
        """
        return self._set("vid", vid)

    def set_ip_address(self, ip: str | None) -> Self:
        """Set the user's IP address, in place of the one that the collector sees."""
        return self._set("ip", ip)

    def set_useragent(self, ua: str | None) -> Self:
        """Set the user's browser, in place of the HTTP client's name."""
        return self._set("ua", ua)

    def set_network_user_id(self, nuid: str | None) -> Self:
        """Set the network user id, in place of the one from the collector's cookie."""
        return self._set("tnuid", nuid)

    @property
    def has_platform(self) -> bool:
        """Whether somebody set the platform."""
        # Other than the default, it was set by someone, if not by the setter.
        return self._platform_was_set or self.standard_nv_pairs.get("p", DEFAULT_PLATFORM) != DEFAULT_PLATFORM

    def __repr__(self) -> str:
        return f"<Subject {self.standard_nv_pairs!r}>"

    def combine_subject(self, subject: Subject | None) -> dict[str, Any]:
        """Return the fields of this subject laid over those of another one, as a new dict."""
        if subject is None:
            return dict(self.standard_nv_pairs)
        combined = {**subject.standard_nv_pairs, **self.standard_nv_pairs}
        if not self.has_platform and "p" in subject.standard_nv_pairs:
            combined["p"] = subject.standard_nv_pairs["p"]
        return combined


def _dimensions(field: str, width: int, height: int) -> str:
    try:
        sides = [integer_value(field, side, 1, INT32_MAX) for side in (width, height)]
    except InvalidEventError:
        rule = f"must be whole pixels above 0, but is {shown(width)} by {shown(height)}"
        raise InvalidEventError(field, rule) from None
    return "x".join(sides)


if not TYPE_CHECKING:
    __getattr__ = names_from_elsewhere(__name__)
