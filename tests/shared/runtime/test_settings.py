"""Options and environment are read by the table; what is wrong is the user's error."""

from __future__ import annotations

import argparse

import pytest

from shared.model.errors import InputError
from shared.runtime.settings import Setting, make_parser, read_environment, read_options

SETTINGS = (
    Setting(name="port", options=("--port", "-p"), metavar="PORT", parse=int, default="7", help="100% a port"),
    Setting(name="part.level", options=("--level",), choices=("low", "high"), help="how loud"),
    Setting(name="names", options=("--name",), repeatable=True, parse=str.upper, help="further names"),
    Setting(name="is_dry", options=("--dry",), is_flag=True, help="do nothing"),
    Setting(name="secret", environment="SECRET", yaml="secret", help="never an option"),
)


def read(*arguments: str) -> dict[str, object]:
    return read_options(SETTINGS, make_parser(SETTINGS, prog="prog", description=""), arguments)


def test_only_what_is_given_has_a_value() -> None:
    assert read() == {}
    assert read("-p", "1", "--level", "low", "--name", "a", "--name", "b", "--dry") == {
        "port": 1, "part.level": "low", "names": ("A", "B"), "is_dry": True,
    }  # fmt: skip
    assert read("--name", "") == {"names": ("",)}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "x"], "argument --port: invalid int value: 'x'"),
        (["--port", ""], "argument --port: invalid int value: ''"),
        (["--level", "loud"], "invalid choice: 'loud'"),
        (["--por", "1"], "unrecognized arguments"),
        (["--secret", "x"], "unrecognized arguments"),
        (["--dry=yes"], "ignored explicit argument"),
    ],
)
def test_a_wrong_option_is_the_users_error(arguments: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read(*arguments)
    assert caught.value.hint == "see `prog --help`"


def test_a_value_that_a_setting_refuses_is_named_with_its_option_or_variable() -> None:
    def refuse(text: str) -> str:
        raise InputError(f"not a colour: {text}", hint="write red")

    settings = (
        Setting(name="colour", help="a colour", options=("--colour", "-c"), environment="COLOUR", parse=refuse),
    )
    with pytest.raises(InputError, match=r"^--colour: not a colour: x$") as caught:
        read_options(settings, make_parser(settings, prog="prog", description=""), ["-c", "x"])
    assert caught.value.hint == "write red"
    with pytest.raises(InputError, match=r"^COLOUR: not a colour: y$"):
        read_environment(settings, {"COLOUR": "y"})


def test_an_empty_variable_counts_as_unset() -> None:
    assert read_environment(SETTINGS, {"SECRET": "x", "port": "1"}) == {"secret": "x"}
    assert read_environment(SETTINGS, {"SECRET": ""}) == {}


def test_help_shows_defaults_and_what_is_repeatable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    shown = capsys.readouterr().out
    assert "100% a port (default: 7)" in shown
    assert "further names (repeatable)" in shown
    assert "never an option" not in shown


@pytest.mark.parametrize("text", ["", "0", "many", "60", "200"])
def test_help_is_as_wide_as_shutil_says(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which isn't imported for it: every sidecar would have its archives' and compression's modules in memory."""
    monkeypatch.setenv("COLUMNS", text)
    settings = (Setting(name="long", options=("--long",), help="word " * 60),)
    parser = make_parser(settings, prog="prog", description="")
    mine = parser.format_help()
    parser.formatter_class = argparse.HelpFormatter
    assert mine == parser.format_help()
