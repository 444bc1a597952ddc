"""The official tracker's methods that build an event and track it in one call."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from durable_tracker.errors import InvalidEventError
from durable_tracker.events import Event, PagePing, PageView, ScreenView, SelfDescribing, StructuredEvent
from durable_tracker.protocol.encoder import context_list, encoded_values
from durable_tracker.protocol.fields import require_text
from durable_tracker.protocol.schema_rules import (
    CART,
    FORM_CHANGE,
    FORM_SUBMIT,
    LINK_CLICK,
    SCREEN_VIEW,
    SITE_SEARCH,
    Rules,
    item_fields,
    iterable_or_none,
)
from durable_tracker.self_describing_json import SelfDescribingJson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from durable_tracker.protocol.encoder import JsonEncoder
    from durable_tracker.subject import Subject

_ITEM = ("sku", "quantity", "name", "category", "unitPrice", "currency")
_SCHEMA = "iglu:com.snowplowanalytics.snowplow/{}/jsonschema/{}"


class TrackMethods:
    """The official tracker's methods that build an event and track it in one call. All return the tracker.

    Their last three arguments are the same: `context`, the entities that describe the circumstances; `tstamp`, when
    it truly happened, in milliseconds since 1970 UTC; `event_subject`, laid over the tracker's subject.

    All raise `InvalidEventError` if an argument breaks a rule of the protocol or of the event's schema, which is
    public on Iglu Central and named at each method; then nothing was queued. All raise `QueueError` if an emitter did
    not take the event.

    What goes into the JSON of an event is checked after `json_encoder` gave it a form.
    """

    json_encoder: JsonEncoder | None

    def _give_new(self, kind: type[Event], *arguments: Any) -> None:
        """Make an event, and give it to `track`."""
        try:
            event = kind(*arguments)
        except InvalidEventError as error:
            given = inspect.signature(kind).bind(*arguments).arguments
            self._refuse({"kind": kind.__name__, **{k: v for k, v in given.items() if v is not None}}, error)
        else:
            self._give(event)

    def _refuse(self, event: object, error: InvalidEventError) -> str:
        """Deal with what broke a rule, as `on_invalid` says."""
        raise NotImplementedError

    def _give(self, event: Event) -> str:
        """Give an event to `track`, and return its id."""
        raise NotImplementedError

    def _give_together(self, events: Sequence[Event]) -> None:
        """Give events to `track`, or none of them if one breaks a rule."""
        raise NotImplementedError

    @staticmethod
    def get_uuid() -> str:
        """Return a new random UUID as text."""
        raise NotImplementedError

    def track_page_view(
        self,
        page_url: str,
        page_title: str | None = None,
        referrer: str | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        tstamp: float | None = None,
        event_subject: Subject | None = None,
    ) -> Self:
        """Track the view of a web page."""
        self._give_new(PageView, page_url, page_title, referrer, event_subject, context, tstamp)
        return self

    def track_page_ping(
        self,
        page_url: str,
        page_title: str | None = None,
        referrer: str | None = None,
        min_x: int | None = None,
        max_x: int | None = None,
        min_y: int | None = None,
        max_y: int | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        tstamp: float | None = None,
        event_subject: Subject | None = None,
    ) -> Self:
        """Track that a web page is still being read; the offsets are in pixels since the last ping."""
        offsets = (min_x, max_x, min_y, max_y)
        self._give_new(PagePing, page_url, page_title, referrer, *offsets, event_subject, context, tstamp)
        return self

    def track_struct_event(
        self,
        category: str,
        action: str,
        label: str | None = None,
        property_: str | None = None,
        value: float | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        tstamp: float | None = None,
        event_subject: Subject | None = None,
    ) -> Self:
        """Track an event of a category, an action and up to three details."""
        self._give_new(StructuredEvent, category, action, label, property_, value, event_subject, context, tstamp)
        return self

    def track_self_describing_event(
        self,
        event_json: SelfDescribingJson,
        context: Sequence[SelfDescribingJson] | None = None,
        tstamp: float | None = None,
        event_subject: Subject | None = None,
    ) -> Self:
        """Track an event that a schema describes."""
        self._give_new(SelfDescribing, event_json, event_subject, context, tstamp)
        return self

    def track_unstruct_event(
        self,
        event_json: SelfDescribingJson,
        context: Sequence[SelfDescribingJson] | None = None,
        tstamp: float | None = None,
        event_subject: Subject | None = None,
    ) -> Self:
        """Do what `track_self_describing_event` does, under its older name."""
        return self.track_self_describing_event(event_json, context, tstamp, event_subject)

    def track_link_click(
        self,
        target_url: str,
        element_id: str | None = None,
        element_classes: Sequence[str] | None = None,
        element_target: str | None = None,
        element_content: str | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        tstamp: float | None = None,
        event_subject: Subject | None = None,
    ) -> Self:
        """Track a click on a link (link_click 1-0-1)."""
        given = {
            "targetUrl": target_url,
            "elementId": element_id,
            "elementClasses": element_classes,
            "elementTarget": element_target,
            "elementContent": element_content,
        }
        return self._track_described("link_click", "1-0-1", LINK_CLICK, given, context, tstamp, event_subject)

    def track_add_to_cart(
        self,
        sku: str,
        quantity: float,
        name: str | None = None,
        category: str | None = None,
        unit_price: float | None = None,
        currency: str | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        tstamp: float | None = None,
        event_subject: Subject | None = None,
    ) -> Self:
        """Track that something was put into a cart (add_to_cart 1-0-0)."""
        given = dict(zip(_ITEM, (sku, quantity, name, category, unit_price, currency), strict=True))
        return self._track_described("add_to_cart", "1-0-0", CART, given, context, tstamp, event_subject)

    def track_remove_from_cart(
        self,
        sku: str,
        quantity: float,
        name: str | None = None,
        category: str | None = None,
        unit_price: float | None = None,
        currency: str | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        tstamp: float | None = None,
        event_subject: Subject | None = None,
    ) -> Self:
        """Track that something was taken out of a cart (remove_from_cart 1-0-0)."""
        given = dict(zip(_ITEM, (sku, quantity, name, category, unit_price, currency), strict=True))
        return self._track_described("remove_from_cart", "1-0-0", CART, given, context, tstamp, event_subject)

    def track_form_change(
        self,
        form_id: str,
        element_id: str,
        node_name: str,
        value: str | None,
        type_: str | None = None,
        element_classes: Sequence[str] | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        tstamp: float | None = None,
        event_subject: Subject | None = None,
    ) -> Self:
        """Track that an element of a form changed (change_form 1-0-0).

        Args:
            form_id: the id of the form.
            element_id: the id of the element; the schema requires it.
            node_name: INPUT, TEXTAREA or SELECT.
            value: what the element holds now, or None.
            type_: its HTML type, such as "email"; sent in lower case, the only one that the schema takes.
            element_classes: its HTML classes.
            context: entities that describe the circumstances.
            tstamp: when it truly happened, in milliseconds since 1970 UTC.
            event_subject: laid over the tracker's subject.
        """
        given = {
            "formId": form_id,
            "elementId": element_id,
            "nodeName": node_name,
            "value": value,
            "type": type_,
            "elementClasses": element_classes,
        }
        return self._track_described("change_form", "1-0-0", FORM_CHANGE, given, context, tstamp, event_subject)

    def track_form_submit(
        self,
        form_id: str,
        form_classes: Sequence[str] | None = None,
        elements: Sequence[Mapping[str, Any]] | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        tstamp: float | None = None,
        event_subject: Subject | None = None,
    ) -> Self:
        """Track that a form was submitted (submit_form 1-0-0).

        Args:
            form_id: the id of the form.
            form_classes: its HTML classes.
            elements: its elements, each with name, value (text or None), nodeName, and maybe type.
            context: entities that describe the circumstances.
            tstamp: when it truly happened, in milliseconds since 1970 UTC.
            event_subject: laid over the tracker's subject.
        """
        given = {"formId": form_id, "formClasses": form_classes, "elements": elements}
        return self._track_described("submit_form", "1-0-0", FORM_SUBMIT, given, context, tstamp, event_subject)

    def track_site_search(
        self,
        terms: Sequence[str],
        filters: Mapping[str, str | bool] | None = None,
        total_results: int | None = None,
        page_results: int | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        tstamp: float | None = None,
        event_subject: Subject | None = None,
    ) -> Self:
        """Track a search on a site, for at least one term (site_search 1-0-0)."""
        given = {"terms": terms, "filters": filters, "totalResults": total_results, "pageResults": page_results}
        return self._track_described("site_search", "1-0-0", SITE_SEARCH, given, context, tstamp, event_subject)

    def track_screen_view(
        self,
        name: str | None = None,
        id_: str | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        tstamp: float | None = None,
        event_subject: Subject | None = None,
    ) -> Self:
        """Track the view of a screen by a name, an id, or both (snowplow/screen_view 1-0-0)."""
        given = {"name": name, "id": id_}
        return self._track_described("screen_view", "1-0-0", SCREEN_VIEW, given, context, tstamp, event_subject)

    def track_mobile_screen_view(
        self,
        name: str,
        id_: str | None = None,
        type: str | None = None,  # noqa: A002 - the official signature
        previous_name: str | None = None,
        previous_id: str | None = None,
        previous_type: str | None = None,
        transition_type: str | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        tstamp: float | None = None,
        event_subject: Subject | None = None,
    ) -> Self:
        """Track the view of a screen in an app; an id is made if none is given (mobile/screen_view 1-0-0)."""
        properties = (type, previous_name, previous_id, previous_type, transition_type)
        id_ = self.get_uuid() if id_ is None else id_
        self._give_new(ScreenView, id_, name, *properties, event_subject, context, tstamp)
        return self

    def track_ecommerce_transaction(
        self,
        order_id: str,
        total_value: float,
        affiliation: str | None = None,
        tax_value: float | None = None,
        shipping: float | None = None,
        city: str | None = None,
        state: str | None = None,
        country: str | None = None,
        currency: str | None = None,
        items: Sequence[Mapping[str, Any]] | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        tstamp: float | None = None,
        event_subject: Subject | None = None,
    ) -> Self:
        """Track a transaction and its items, one event each: all of them, or none if one breaks a rule.

        Args:
            order_id: the id of the transaction; its items carry it too.
            total_value: the total.
            affiliation: the shop.
            tax_value: the tax.
            shipping: the cost of delivery.
            city: of delivery.
            state: of delivery.
            country: of delivery.
            currency: a code of 3 letters; the items carry it too.
            items: each a dict with sku, price, quantity, and maybe name, category, currency and context. The dicts are
                not changed. An item without a context has that of the transaction.
            context: entities that describe the circumstances.
            tstamp: when it truly happened, in milliseconds since 1970 UTC.
            event_subject: laid over the tracker's subject.
        """
        transaction = {
            "e": "tr",
            "tr_id": order_id,
            "tr_tt": total_value,
            "tr_af": affiliation,
            "tr_tx": tax_value,
            "tr_sh": shipping,
            "tr_ci": city,
            "tr_st": state,
            "tr_co": country,
            "tr_cu": currency,
        }
        context = context_list(context)
        events = [Event(transaction, event_subject, context, tstamp)]
        try:
            require_text("tr_id", order_id)
            if total_value is None:
                raise InvalidEventError("tr_tt", "must be a finite decimal number, but is None")  # noqa: TRY301
            for index, item in enumerate(iterable_or_none("items", items)):
                pairs = item_fields(f"items[{index}]", order_id, currency, item)
                events.append(Event(pairs, event_subject, item.get("context") or context, tstamp))
        except InvalidEventError as error:
            self._refuse({**transaction, "items": items}, error)
        else:
            self._give_together(events)
        return self

    def track_ecommerce_transaction_item(
        self,
        order_id: str,
        sku: str,
        price: float,
        quantity: int,
        name: str | None = None,
        category: str | None = None,
        currency: str | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        tstamp: float | None = None,
        event_subject: Subject | None = None,
    ) -> Self:
        """Track one item of a transaction; `track_ecommerce_transaction` does so for all of them."""
        details = {"sku": sku, "price": price, "quantity": quantity, "name": name, "category": category}
        try:
            pairs = item_fields("item", order_id, currency, details)
        except InvalidEventError as error:
            self._refuse({"e": "ti", "order_id": order_id, "currency": currency, **details}, error)
        else:
            self._give(Event(pairs, event_subject, context, tstamp))
        return self

    def _track_described(
        self,
        name: str,
        version: str,
        rules: Rules,
        given: dict[str, Any],
        context: Sequence[SelfDescribingJson] | None,
        tstamp: float | None,
        event_subject: Subject | None,
    ) -> Self:
        try:
            data = rules.apply(encoded_values(given, self.json_encoder))
        except InvalidEventError as error:
            self._refuse({"schema": _SCHEMA.format(name, version), **given}, error)
            return self
        event_json = SelfDescribingJson(_SCHEMA.format(name, version), data)
        return self.track_self_describing_event(event_json, context, tstamp, event_subject)
