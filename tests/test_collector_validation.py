"""The development collector judges a request as a Snowplow pipeline would."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import jsonschema
import pytest

from durable_tracker.collector.columns import DEPTH_MAX, decode_base64, read_json
from durable_tracker.collector.registry import Registry
from durable_tracker.collector.validation import Request, Verdict, classify
from durable_tracker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TP2 = "/com.snowplowanalytics.snowplow/tp2"
SNOWPLOW = "iglu:com.snowplowanalytics.snowplow"
PAYLOAD_DATA = f"{SNOWPLOW}/payload_data/jsonschema/1-0-4"
OLDER = f"{SNOWPLOW}/payload_data/jsonschema/1-0-3"
LINK_CLICK = f"{SNOWPLOW}/link_click/jsonschema/1-0-1"
OWN = "iglu:com.example/thing/jsonschema/1-0-0"
NO_SPACE = {"content-type": "application/json;charset=utf-8"}
EID = "9f0a1f9e-0000-4000-8000-00805f9b34fb"
EVENT = {"e": "pv", "p": "pc", "tv": "x-1", "eid": EID, "dtm": "1665398554151", "stm": "1665398554152"}


def request(
    body: bytes = b"", *, path: str = TP2, query: str = "", headers: Mapping[str, str] | None = None
) -> Request:
    return Request(
        number=1,
        method="POST" if body or path == TP2 else "GET",
        path=path,
        query=query,
        headers={"content-type": "application/json; charset=utf-8"} if headers is None else headers,
        header_lines=(),
        peer="127.0.0.1",
        received_ms=0,
        network_user_id="",
        read_body=lambda: body,
    )


def batch(*events: Mapping[str, Any], schema: str = PAYLOAD_DATA) -> bytes:
    return json.dumps({"schema": schema, "data": events}).encode()


def post(*events: Mapping[str, Any]) -> Verdict:
    return classify(request(batch(*events)), Registry())


def kinds(verdict: Verdict) -> list[str]:
    return [row.kind for row in verdict.bad]


def self_describing(data: Any, schema: str = LINK_CLICK) -> str:
    return json.dumps(
        {"schema": f"{SNOWPLOW}/unstruct_event/jsonschema/1-0-0", "data": {"schema": schema, "data": data}}
    )


def contexts(*items: Any, version: str = "1-0-1") -> str:
    return json.dumps({"schema": f"{SNOWPLOW}/contexts/jsonschema/{version}", "data": items})


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def test_a_sound_batch_passes_and_is_named_by_its_schemas() -> None:
    """Each kind of event reports the type and the schema that Snowplow reports of it."""
    codes = ["pv", "pp", "se", "tr", "ti"]
    verdict = post(*({**EVENT, "e": code} for code in codes))
    assert verdict.bad == ()
    assert [(event.event_type, event.schema) for event in verdict.good] == [
        ("page_view", f"{SNOWPLOW}/page_view/jsonschema/1-0-0"),
        ("page_ping", f"{SNOWPLOW}/page_ping/jsonschema/1-0-0"),
        ("struct", "iglu:com.google.analytics/event/jsonschema/1-0-0"),
        ("transaction", f"{SNOWPLOW}/transaction/jsonschema/1-0-0"),
        ("transaction_item", f"{SNOWPLOW}/transaction_item/jsonschema/1-0-0"),
    ]


@pytest.mark.parametrize("base64_on", [True, False])
def test_a_self_describing_event_with_contexts_reports_what_is_inside(base64_on: bool) -> None:
    """The schema is that of the inner data, whether it came in base64 or plain."""
    event, entities = self_describing({"targetUrl": "http://a"}), contexts({"schema": OWN, "data": {}})
    keys = {"ue_px": encoded(event), "cx": encoded(entities)} if base64_on else {"ue_pr": event, "co": entities}
    (good,) = post({**EVENT, "e": "ue", **keys}).good
    assert (good.event_type, good.schema, good.contexts) == ("unstruct", LINK_CLICK, (OWN,))


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("adapter_failures", request(batch(EVENT), path="/com.example/v1")),
        ("adapter_failures", request(path="/i")),
        ("collector_payload_format_violation", request(path="/i", query="e=pv&p=%zz")),
        ("collector_payload_format_violation", request(path="/i", query="e=pv&nuid=5")),
        ("tracker_protocol_violations", request(headers={})),
        ("tracker_protocol_violations", request()),
        ("tracker_protocol_violations", request(batch(EVENT), headers={})),
        ("tracker_protocol_violations", request(batch(EVENT), headers={"content-type": "text/plain"})),
        ("tracker_protocol_violations", request(batch(EVENT), headers=NO_SPACE)),
        ("tracker_protocol_violations", request(b"{")),
        ("tracker_protocol_violations", request(b"[]")),
        ("tracker_protocol_violations", request(batch(EVENT).replace(b"pc", b"\x00"))),
        ("tracker_protocol_violations", request(batch(EVENT, schema=OWN))),
        ("tracker_protocol_violations", request(batch(EVENT, schema=PAYLOAD_DATA.replace("1-0-4", "1-0-9")))),
        ("tracker_protocol_violations", request(batch())),
        ("tracker_protocol_violations", request(batch(EVENT, {"e": "pv", "p": "pc"}))),
        ("tracker_protocol_violations", request(batch(EVENT, {**EVENT, "nope": "1"}))),
        ("tracker_protocol_violations", request(batch(EVENT, {**EVENT, "dtm": 1}))),
        ("tracker_protocol_violations", request(batch(EVENT, {**EVENT, "uid": None}))),
        ("tracker_protocol_violations", request(batch({**EVENT, "ttm": "1"}, schema=OLDER))),
    ],
)  # fmt: skip
def test_a_request_that_is_wrong_as_a_whole_is_one_bad_row(kind: str, made: Request) -> None:
    """One malformed event, or a wrong header, takes every other event of the request with it."""
    verdict = classify(made, Registry())
    assert (kinds(verdict), verdict.good) == ([kind], ())
    assert verdict.bad[0].parameters is None
    assert verdict.bad[0].as_json()["schema"].startswith(f"iglu:com.snowplowanalytics.snowplow.badrows/{kind}/")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("e", "xx"), ("p", "PC"), ("eid", "1"), ("eid", EID.replace("-", "")), ("sid", ""), ("dtm", "1.0"),
        ("dtm", "1e12"), ("stm", "253402300800000"), ("ttm", ""), ("vid", "2147483648"), ("tid", "x"),
        ("res", "10x"), ("vp", "10 x 10"), ("ds", "1x2147483648"), ("ti_qu", "1.0"), ("pp_mix", "0.5"),
        ("se_va", "nan"), ("se_va", ""), ("tr_tt", "True"), ("ti_pr", "1,5"), ("cookie", "true"), ("cx", ""),
        ("cx", "!"), ("co", "[]"), ("aid", "a" * 256), ("ip", "1" * 129), ("tr_cu", "EURO"),
        ("se_pr", "\N{GRINNING FACE}" * 501), ("co", "NaN"), ("co", contexts(version="1-0-0")),
        ("co", contexts({"schema": "nonsense", "data": {}})),
        ("co", contexts({"schema": "iglu:a/b/c/0-1-0", "data": {}})),
        ("co", contexts({"schema": "iglu:a/b/c/1-0-00", "data": {}})),
        ("co", contexts({"schema": "iglu:a/b/c/01-0-0", "data": {}})),
        ("co", contexts({"schema": "iglu:a/b/c/1-2147483648-0", "data": {}})),
        ("ue_pr", self_describing({}, "iglu:a/b/c/0-1-0")),
        ("co", contexts({"schema": "iglu:a/b/c/1-0-99999999999", "data": {}})),
        ("co", contexts({"schema": LINK_CLICK, "data": {}})),
        ("ue_pr", self_describing({"targetUrl": ""})), ("ue_pr", self_describing({}, "iglu:a/b")),
        ("ue_pr", contexts()),
    ],
)  # fmt: skip
def test_a_wrong_value_fails_its_own_event_and_no_other(key: str, value: str) -> None:
    """What the conversions and the schemas refuse is one bad row; the rest of the batch passes."""
    verdict = post(EVENT, {**EVENT, key: value}, EVENT)
    assert (kinds(verdict), len(verdict.good)) == (["schema_violations"], 2)
    (message,) = verdict.bad[0].messages
    assert message.startswith(f"{key}: ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("e", "ev"), ("p", "headset"), ("eid", EID.upper()), ("dtm", "-1"), ("vid", "2147483647"), ("res", "0x0"),
        ("se_va", "1e+16"), ("se_va", ".5"), ("tr_tt", "-12.30"), ("uid", ""), ("aid", "a" * 255),
        ("se_pr", "\N{GRINNING FACE}" * 500), ("ip", "1.2.3.4, " + "5" * 200), ("co", contexts()),
        ("co", contexts({"schema": OWN, "data": [1]})), ("ue_pr", self_describing(None, OWN)),
        ("cx", encoded(contexts()).rstrip("=")), ("url", "not a url"),
    ],
)  # fmt: skip
def test_a_value_at_the_edge_of_its_rule_passes(key: str, value: str) -> None:
    """The collector is no stricter than the pipeline."""
    assert ((verdict := post({**EVENT, key: value})).bad, len(verdict.good)) == ((), 1)


def test_all_that_is_wrong_with_an_event_is_told_at_once() -> None:
    """An event with several faults is one bad row with a message for each."""
    (row,) = post({**EVENT, "eid": "1", "dtm": "x", "res": "y"}).bad
    assert sorted(message.partition(":")[0] for message in row.messages) == ["dtm", "eid", "res"]


def test_an_event_by_get_needs_no_more_than_its_code() -> None:
    """A pixel's query has no allow-list and no required key but `e`, and unknown names are ignored."""
    query = urlencode({"e": "pp", "p": "web", "tv": "lol", "u": "x"})
    assert len(classify(request(path="/i", query=query, headers={}), Registry()).good) == 1
    assert len(classify(request(path=TP2, query=query, headers={}), Registry()).good) == 1
    assert kinds(classify(request(path="/i", query="p=web", headers={}), Registry())) == ["enrichment_failures"]
    assert kinds(classify(request(path="/i", query="e=pv&url=http://[", headers={}), Registry())) == [
        "enrichment_failures"
    ]


@pytest.mark.parametrize("method", ["post", "get"])
def test_an_ad_impression_always_fails(method: str) -> None:
    """Its code is known and converted; the step after that has no schema for it. The rest of the batch passes."""
    if method == "post":
        verdict = post(EVENT, {**EVENT, "e": "ad"})
    else:
        verdict = classify(request(path="/i", query=urlencode({**EVENT, "e": "ad"}), headers={}), Registry())
    assert (kinds(verdict), len(verdict.good)) == (["enrichment_failures"], int(method == "post"))
    assert verdict.bad[0].messages == ("e: there is no schema for ad_impression",)


def test_the_query_of_a_post_is_merged_over_its_events() -> None:
    """Every event of the batch gets the parameters of the querystring."""
    verdict = classify(request(batch(EVENT, EVENT), query="aid=shop"), Registry())
    assert [event.parameters["aid"] for event in verdict.good] == ["shop", "shop"]


def test_an_older_payload_data_is_judged_by_its_own_keys() -> None:
    """A batch that names 1-0-0 may not use what later versions added."""
    old = PAYLOAD_DATA.replace("1-0-4", "1-0-0")
    plain = {"e": "pv", "p": "pc", "tv": "x"}
    assert len(classify(request(batch(plain, schema=old)), Registry()).good) == 1
    assert kinds(classify(request(batch(EVENT, schema=old)), Registry())) == ["tracker_protocol_violations"]


def test_json_may_be_forty_levels_deep_and_no_more() -> None:
    """The limit of Micro holds, a scalar counts, and text that would exhaust the parser is refused as well."""
    read_json("[" * DEPTH_MAX + "]" * DEPTH_MAX)
    read_json("[" * (DEPTH_MAX - 1) + "1" + "]" * (DEPTH_MAX - 1))
    with pytest.raises(ValueError, match="deeper than 40"):
        read_json("[" * DEPTH_MAX + "1" + "]" * DEPTH_MAX)
    for depth in (DEPTH_MAX + 1, 100_000):
        with pytest.raises(ValueError, match="deeper than 40"):
            read_json("[" * depth + "]" * depth)


@pytest.mark.parametrize("text", ["", "[NaN]", "[Infinity]", "{'a': 1}", "1 2"])
def test_what_only_python_takes_for_json_is_refused(text: str) -> None:
    """NaN and the like fail, as they fail in the pipeline's parser."""
    with pytest.raises(ValueError, match="not JSON"):
        read_json(text)


def test_base64_is_read_in_both_alphabets_with_and_without_padding() -> None:
    """The pipeline's decoder takes either; so does this one."""
    text = "ÿþýü>>>???"
    for variant in (base64.b64encode, base64.urlsafe_b64encode):
        code = variant(text.encode()).decode()
        assert [decode_base64(code), decode_base64(code.rstrip("="))] == [text, text]


def test_an_unknown_schema_passes_unless_the_registry_is_strict() -> None:
    """Data of a schema that is nowhere to be found is refused only on demand."""
    event = {**EVENT, "e": "ue", "ue_pr": self_describing({}, OWN)}
    assert kinds(classify(request(batch(event)), Registry())) == []
    (row,) = classify(request(batch(event)), Registry(strict=True)).bad
    assert row.messages == (f"ue_pr: {OWN}: no such schema",)


def test_a_users_own_schema_is_found_and_used(tmp_path: Path) -> None:
    """A directory of self-describing schemas takes part in the judgement."""
    block = {"vendor": "com.example", "name": "thing", "format": "jsonschema", "version": "1-0-0"}
    folder = tmp_path / "com.example" / "thing" / "jsonschema"
    folder.mkdir(parents=True)
    (folder / "1-0-0").write_text(json.dumps({"self": block, "type": "object", "required": ["a"]}))
    (folder / "README").write_text("no schema")
    registry = Registry(strict=True, directories=[tmp_path])
    events = [{**EVENT, "e": "ue", "ue_pr": self_describing(data, OWN)} for data in ({"a": 1}, {})]
    verdict = classify(request(batch(*events)), registry)
    assert (len(verdict.good), kinds(verdict)) == (1, ["schema_violations"])

    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"broken\.json is not a self-describing"):
        Registry(directories=[tmp_path])
    with pytest.raises(ConfigurationError, match="is not a directory"):
        Registry(directories=[tmp_path / "missing"])


def test_a_bounded_sink_splits_a_large_request_and_loses_a_huge_one() -> None:
    """Above the sink's limit only what is too large by itself is lost; above 1 MiB everything is."""
    large = {**EVENT, "page": "a" * 1_900, "co": contexts({"schema": OWN, "data": "b" * 3_000})}
    verdict = classify(request(batch(EVENT, large)), Registry(), sink_bytes_max=4_000)
    assert (len(verdict.good), kinds(verdict)) == (1, ["size_violation"])
    huge = [{**EVENT, "page": "a" * 1_900}] * 600
    verdict = classify(request(batch(*huge)), Registry(), sink_bytes_max=192_000)
    assert (len(verdict.good), kinds(verdict)) == (0, ["size_violation"])


@pytest.mark.parametrize(
    "event", [EVENT, {**EVENT, "nope": "1"}, {**EVENT, "dtm": 1}, {"e": "pv"}, {}, {**EVENT, "cv": "1"}]
)
def test_the_judgement_of_a_batch_agrees_with_another_schema_library(event: dict[str, Any]) -> None:
    """What payload_data allows is not a matter of the library."""
    document = Registry().document(PAYLOAD_DATA)
    assert document is not None
    valid = jsonschema.Draft4Validator(document).is_valid([event])
    assert valid == (kinds(post(event)) == [])
