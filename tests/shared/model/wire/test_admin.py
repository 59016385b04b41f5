"""The admin API's values: strict, and errors that arrive as what they were."""

from __future__ import annotations

import inspect

import msgspec
import pytest

from shared.model import errors
from shared.model.errors import TouchmarkError
from shared.model.policy.rules import Mode
from shared.model.wire import admin
from shared.model.wire.messages import Enrol, Registration


def values() -> list[type[msgspec.Struct]]:
    return [
        each
        for name, each in vars(admin).items()
        if inspect.isclass(each)
        and issubclass(each, msgspec.Struct)
        and each.__module__ == admin.__name__
        and not name.startswith("_")
    ]


@pytest.mark.parametrize("value", values(), ids=lambda value: value.__name__)
def test_each_value_is_frozen_and_refuses_unknown_fields(value: type[msgspec.Struct]) -> None:
    assert value.__struct_config__.frozen
    assert value.__struct_config__.forbid_unknown_fields == value.__name__.endswith("Request")


def test_each_answer_of_the_table_exists() -> None:
    page = admin.__doc__ or ""
    rows = [line for line in page.splitlines() if line.startswith(("GET", "POST", "PUT", "DELETE"))]
    assert len(rows) > 20
    for name in {
        word.strip("`") for row in rows for word in row.split() if word.startswith("``") and word[2].isupper()
    }:
        assert hasattr(admin, name), name


def test_a_mode_that_doesnt_exist_is_refused() -> None:
    assert msgspec.json.decode(b'{"mode":"explicit"}', type=admin.ModeRequest).mode is Mode.EXPLICIT
    for text in (b'{"mode":"strict"}', b'{"mode":"explicit","forced":true}', b"{}"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(text, type=admin.ModeRequest)


@pytest.mark.parametrize(
    "kind",
    [errors.InputError, errors.NotFoundError, errors.ConflictError, errors.UnavailableError, errors.RefusedError],
)
def test_an_error_arrives_as_what_it_was(kind: type[TouchmarkError]) -> None:
    arrived = admin.to_error(admin.ErrorAnswer(code=kind.code, message="no", hint="do"))
    assert type(arrived) is kind
    assert (arrived.message, arrived.hint, arrived.exit_code) == ("no", "do", kind.exit_code)


def test_an_unknown_error_is_an_error_still() -> None:
    assert type(admin.to_error(admin.ErrorAnswer(code="of_tomorrow", message="no"))) is TouchmarkError


def test_no_token_is_shown() -> None:
    secret = "touchmark1.secret"
    created = admin.JoinTokenCreated(
        token=secret, token_id="t", workload="shop/web", addresses=(), ca="127.0.0.1:1", expires=1.0
    )
    registration = Registration(instance="i", version="1", addresses=(), tunnel_port=1, capture="redirect")
    for value in (created, Enrol(token=secret, csr=b"", registration=registration)):
        assert secret not in repr(value) + str(value)
