"""The settings: stated once, the same wherever they can be given, and on record with a backlog."""

from __future__ import annotations

import argparse
import inspect
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
from settings_readme import README, renewed

from durable_tracker import AsyncEmitter, Emitter, EmitterConfiguration, drain
from durable_tracker.delivery.state import DeliverySettings
from durable_tracker.engines.engine import QueueSettings
from durable_tracker.errors import ConfigurationError
from durable_tracker.runtime.settings import EmitterSettings
from durable_tracker.settings.table import ARGUMENTS

if TYPE_CHECKING:
    from collections.abc import Mapping

ASYNC = {"protocol": "http"}
"""The one default of `AsyncEmitter` that is not `Emitter`'s: the official class has it."""


def defaults(function: Any) -> dict[str, Any]:
    """Return the parameters that have a default, in order."""
    found = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in found if one.default is not inspect.Parameter.empty}


def test_an_emitters_signature_is_the_table() -> None:
    """Each name in its place, with the table's default and type."""
    parameters = inspect.signature(Emitter).parameters
    assert list(parameters) == ["endpoint", *ARGUMENTS]
    assert defaults(Emitter) == {one.name: one.default for one in ARGUMENTS.values()}
    assert {name: parameters[name].annotation for name in ARGUMENTS} == {
        one.name: one.type for one in ARGUMENTS.values()
    }


@pytest.mark.parametrize("made", [AsyncEmitter, EmitterConfiguration])
def test_another_signature_has_the_tables_defaults(made: type) -> None:
    """What it shares with `Emitter`; the rest comes as keywords that go there."""
    named = defaults(made)
    if made is AsyncEmitter:
        assert named.pop("thread_count") == ARGUMENTS["senders"].default
    assert named
    expected = {name: ARGUMENTS[name].default for name in named}
    assert named == expected | (ASYNC if made is AsyncEmitter else {})


@pytest.mark.parametrize("made", [DeliverySettings, QueueSettings])
def test_a_settings_object_has_the_tables_defaults(made: type) -> None:
    """Where None stands for a value, that value."""
    shown = {one.name: getattr(made(), one.name) for one in fields(made)}
    assert shown == {name: ARGUMENTS[name].usual for name in shown}


def test_an_emitters_settings_are_arguments() -> None:
    """They have no defaults of their own."""
    for one in fields(EmitterSettings):
        assert one.name in ARGUMENTS
        assert one.name not in defaults(EmitterSettings)


def entries(docstring: str) -> Mapping[str, str]:
    """Return what a docstring says of each argument."""
    section = docstring.split("Args:\n")[1].split("\n\n", maxsplit=1)[0]
    found = re.split(r"^        (\w+): ", section, flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, text in zip(found[::2], found[1::2], strict=True)}


def test_an_emitters_docstring_says_what_the_table_says() -> None:
    """And then more."""
    said = entries(Emitter.__doc__ or "")
    assert list(said) == ["endpoint", *ARGUMENTS]
    for name, one in ARGUMENTS.items():
        assert said[name].startswith(one.help), name


def test_a_configurations_properties_say_what_the_table_says() -> None:
    """Each is checked as `Emitter` checks it."""
    for name in defaults(EmitterConfiguration):
        setting = vars(EmitterConfiguration)[name]
        assert (setting.__doc__, setting.check) == (ARGUMENTS[name].help, ARGUMENTS[name].check)


def test_every_default_passes_its_check() -> None:
    """And each check's message begins with what the user wrote."""
    for one in ARGUMENTS.values():
        assert one.value(one.default) == one.usual
        if one.check is not None:
            with pytest.raises(ConfigurationError, match=r"^--that: "):
                one.check("--that", object())


def test_readme_has_the_table() -> None:
    """If this fails: python tests/settings_readme.py."""
    text = README.read_text(encoding="utf-8")
    assert text == renewed(text)


def drain_options() -> dict[str, argparse.Action]:
    parser = argparse.ArgumentParser()
    drain.add_arguments(parser)
    return {action.dest: action for action in parser._actions}


def test_the_drains_options_are_the_table() -> None:
    """Each that mirrors an argument has its name and meaning, and says where its value comes from."""
    options = drain_options()
    assert {one.name for one in fields(DeliverySettings)} == {*drain.MIRRORED, "report_retries"}
    for name in drain.MIRRORED:
        one, option = ARGUMENTS[name], options[name]
        assert option.option_strings == [f"--{name.replace('_', '-')}"]
        assert option.help is not None
        assert option.help.startswith(one.help)
        assert option.help.endswith(f"{one.in_words(one.usual)})")
        assert ("on record" in option.help) is one.is_backlogs


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("--byte-limit", "1000", 1000),
        ("--senders", "2", 2),
        ("--max-age", "1.5", 1.5),
        ("--max-age", "none", None),
        ("--max-retry-delay-seconds", "5", 5),
        ("--custom-retry-codes", "404=true,503=false", {404: True, 503: False}),
        ("--byte-limit", "0", "byte-limit: 0 is not a positive integer"),
        ("--byte-limit", "none", "byte-limit: 'none' is not a positive integer"),
        ("--batch-size", "1.5", "batch-size: 1.5 is not a positive integer"),
        ("--senders", "x", "senders: 'x' is not a positive integer"),
        ("--max-age", "nan", "max-age: nan is not a number of seconds above 0"),
        ("--custom-retry-codes", "404", "custom-retry-codes: 404: '' does not map an HTTP status"),
        ("--custom-retry-codes", "200=true", "custom-retry-codes: 200: True does not map an HTTP status"),
        ("--custom-retry-codes", "x=true", "custom-retry-codes: 'x': True does not map an HTTP status"),
    ],
)
def test_the_drains_options_are_checked_as_arguments_are(
    option: str, text: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the same words, with the name that the user wrote."""
    parser = argparse.ArgumentParser()
    drain.add_arguments(parser)
    if isinstance(value, str):
        with pytest.raises(SystemExit):
            parser.parse_args([option, text])
        assert f"--{value}" in capsys.readouterr().err
    else:
        assert getattr(parser.parse_args([option, text]), option[2:].replace("-", "_")) == value
        assert not hasattr(parser.parse_args([]), option[2:].replace("-", "_"))
