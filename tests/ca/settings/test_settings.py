"""The CA's options: defaults that work, limits that are checked, errors that say which."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca.authority.sign import MAX_LIFETIME_S, MIN_LIFETIME_S
from ca.settings.configuration import (
    LEAF_LIFETIME_RANGE_S,
    Configuration,
    SigningProcessMode,
    format_endpoint,
    parse_endpoint,
)
from ca.settings.settings import SETTINGS, parse_arguments
from shared.model.errors import IdentityError, InputError


def make(tmp_path: Path, **options: object) -> Configuration:
    paths = {"data_dir": tmp_path / "d", "kek_file": tmp_path / "kek", "admin_socket": tmp_path / "s"}
    return Configuration(**{**paths, **options})  # type: ignore[arg-type]


def test_without_options_everything_has_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOUCHMARK_ADMIN_SOCKET", str(tmp_path / "admin.sock"))
    configuration = parse_arguments([])
    assert configuration.listen == "127.0.0.1:15443"
    assert configuration.admin_socket == tmp_path / "admin.sock"
    assert configuration.leaf_lifetime_s == 18_000


def test_each_option_arrives(tmp_path: Path) -> None:
    words = (
        f"--data-dir {tmp_path}/d --kek-file {tmp_path}/k --admin-socket {tmp_path}/s --listen [::1]:7 --name ca.test"
    )
    words += " --name 198.18.0.1 --trust-domain shop.test --leaf-lifetime-s 600 --rotation-minimum-wait-s 5"
    words += " --trust-delay-s 7 --decisions-max-age-s 60 --decisions-max-rows 9 --max-streams 3 --log-level debug"
    words += " --signing-process on"
    assert parse_arguments(words.split()) == Configuration(
        data_dir=tmp_path / "d",
        kek_file=tmp_path / "k",
        admin_socket=tmp_path / "s",
        host="::1",
        port=7,
        names=("ca.test", "198.18.0.1"),
        trust_domain="shop.test",
        leaf_lifetime_s=600.0,
        rotation_minimum_wait_s=5.0,
        trust_delay_s=7.0,
        decisions_max_age_s=60.0,
        decisions_max_rows=9,
        max_streams=3,
        log_level="debug",
        signing_process=SigningProcessMode.ON,
    )


@pytest.mark.parametrize(
    "words",
    [
        "--colour red",
        "--listen here",
        "--max-streams many",
        "--log-level loud",
        "--signing-process perhaps",
        "--data",
        "--trust-domain Not_One",
    ],
)
def test_an_option_that_cannot_be_is_an_error_of_ours(words: str) -> None:
    with pytest.raises((InputError, IdentityError)) as caught:
        parse_arguments(words.split())
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "options",
    [
        {"leaf_lifetime_s": 299.0},
        {"leaf_lifetime_s": 86_401.0},
        {"leaf_lifetime_s": float("nan")},
        {"decisions_max_age_s": 0.0},
        {"decisions_max_age_s": float("nan")},
        {"decisions_max_rows": 0},
        {"max_streams": 0},
        {"renewal_grace_s": -1.0},
        {"renewal_grace_s": 28 * 86_400.0 + 1},
        {"renewal_grace_s": float("nan")},
        {"rotation_minimum_wait_s": -1.0},
        {"rotation_minimum_wait_s": float("nan")},
        {"trust_delay_s": -1.0},
        {"trust_delay_s": float("inf")},
        {"admin_socket": Path("/" + "x" * 107)},
    ],
    ids=repr,
)
def test_limits_are_checked(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        make(tmp_path, **options)


def test_the_lifetimes_are_those_that_the_signer_accepts() -> None:
    assert LEAF_LIFETIME_RANGE_S == (MIN_LIFETIME_S, MAX_LIFETIME_S)


def test_the_key_never_lies_beside_what_it_opens(tmp_path: Path) -> None:
    for inside in (tmp_path / "d" / "kek", tmp_path / "d" / ".." / "d" / "sub" / "kek"):
        with pytest.raises(InputError, match="key-encryption key"):
            make(tmp_path, kek_file=inside)
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "d")
    with pytest.raises(InputError, match="key-encryption key"):
        make(tmp_path, kek_file=tmp_path / "link" / "kek")


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:15443", ("127.0.0.1", 15443)),
        ("[2001:db8::1]:1", ("2001:db8::1", 1)),
        ("ca.test:0", ("ca.test", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_an_endpoint_is_read_and_written(text: str, endpoint: tuple[str, int]) -> None:
    assert parse_endpoint(text) == endpoint
    assert format_endpoint(*endpoint) == text


@pytest.mark.parametrize("text", ["", ":", "host", "host:", ":1", "host:65536", "host:-1", "2001:db8::1:1", "host:١"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_endpoint(text)


def test_a_cluster_has_its_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    words = (
        "--kubernetes --sidecar-image a.test/s:1 --sidecar-image=a.test/s:2,a.test/s:3 --admin-listen 127.0.0.1:15081"
    )
    configuration = parse_arguments([*words.split(), "--data-dir", str(tmp_path / "d"), "--kek-file", str(tmp_path)])
    assert configuration.kubernetes
    assert configuration.kubeconfig == tmp_path / "kubeconfig"
    assert configuration.sidecar_images == ("a.test/s:1", "a.test/s:2", "a.test/s:3")
    assert (configuration.admin_host, configuration.admin_port) == ("127.0.0.1", 15081)
    assert parse_arguments(["--kek-file", str(tmp_path)]).kubeconfig is None


@pytest.mark.parametrize(
    "words",
    [
        "--kubernetes",
        "--sidecar-image a.test/s:1",
        "--kubernetes --sidecar-image=",
        "--admin-listen 0.0.0.0:15081",
        "--admin-listen localhost:15081",
        "--admin-listen 198.18.0.1:15081",
        "--webhook-listen 127.0.0.1:15444",
        "--kubernetes --sidecar-image a.test/s:1 --webhook-listen nowhere",
        "--kubernetes --sidecar-image a.test/s:1 --sidecar-ca nowhere",
        "--kubernetes --sidecar-image a.test/s:1 --sidecar-pull-policy Maybe",
    ],
)
def test_a_cluster_s_options_are_checked(words: str) -> None:
    with pytest.raises(InputError):
        parse_arguments(words.split())


def test_a_databases_password_is_in_no_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOUCHMARK_DATABASE_URL", raising=False)
    assert parse_arguments([]).database == ""
    url = "postgresql://ca@db.example.test/touchmark?sslmode=verify-full"
    assert parse_arguments(["--database", url]).database == url
    with pytest.raises(InputError, match="shows it to every user") as caught:
        parse_arguments(["--database", "postgresql://ca:hunter2@db/touchmark"])
    assert "TOUCHMARK_DATABASE_URL" in caught.value.hint and "hunter2" not in caught.value.message
    monkeypatch.setenv("TOUCHMARK_DATABASE_URL", "postgresql://ca:hunter2@db/touchmark")
    configuration = parse_arguments([])
    assert configuration.database.endswith("hunter2@db/touchmark")
    assert "hunter2" not in repr(configuration)


def test_the_webhooks_tokens_come_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--kubernetes", "--sidecar-image", "a.test/s:1", "--webhook-listen", "[::]:15444"]
    assert parse_arguments(words).webhook_tokens == ()
    monkeypatch.setenv("TOUCHMARK_WEBHOOK_TOKEN", f"{'n' * 32}\n {'o' * 64}=\n")
    configuration = parse_arguments(words)
    assert configuration.webhook_tokens == ("n" * 32, "o" * 64 + "=")
    assert "n" * 32 not in repr(configuration)
    with pytest.raises(InputError, match="means nothing without --webhook-listen"):
        parse_arguments(words[:-2])


@pytest.mark.parametrize("text", [" \n", "short", "x" * 1025, "x" * 32 + "\u00e9", " ".join(["x" * 32] * 9)])
def test_a_webhooks_token_that_is_none_ends_the_start(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody wanted that nobody asks without one."""
    monkeypatch.setenv("TOUCHMARK_WEBHOOK_TOKEN", text)
    with pytest.raises(InputError, match="token"):
        parse_arguments(["--kubernetes", "--sidecar-image", "a.test/s:1", "--webhook-listen", "[::]:15444"])


def test_in_a_cluster_the_servers_certificate_names_its_service() -> None:
    words = ["--kubernetes", "--sidecar-image", "a.test/s:1", "--name", "ca.test", "--webhook-listen", "[::]:15444"]
    configuration = parse_arguments(words)
    assert configuration.server_names[0] == "ca.test"
    assert "touchmark-ca.touchmark-system.svc" in configuration.server_names
    assert (configuration.webhook_host, configuration.webhook_port) == ("::", 15444)
    assert configuration.sidecar_ca == "touchmark-ca.touchmark-system.svc:15443"
    assert parse_arguments(["--name", "ca.test"]).server_names == ("ca.test",)


def test_the_cas_namespace_has_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHMARK_NAMESPACE", "mesh")
    configuration = parse_arguments(["--kubernetes", "--sidecar-image", "a.test/s:1"])
    assert configuration.sidecar_ca == "touchmark-ca.mesh.svc:15443"
    assert "touchmark-ca.mesh.svc" in configuration.server_names
    named = parse_arguments(["--kubernetes", "--sidecar-image", "a.test/s:1", "--sidecar-ca", "ca.test:1"])
    assert named.sidecar_ca == "ca.test:1"
    with pytest.raises(IdentityError):
        parse_arguments(["--kubernetes", "--sidecar-image", "a.test/s:1", "--namespace", "Not a name"])


def test_options_win_over_the_environment_and_an_empty_one_counts_as_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOUCHMARK_DATABASE_URL", "postgresql://environment/touchmark")
    monkeypatch.setenv("TOUCHMARK_ADMIN_SOCKET", str(tmp_path / "environment"))
    words = ["--database", "postgresql://option/touchmark", "--admin-socket", str(tmp_path / "option")]
    read = parse_arguments(words)
    assert (read.database, read.admin_socket) == ("postgresql://option/touchmark", tmp_path / "option")
    read = parse_arguments(["--database", "", "--admin-listen", "", "--webhook-listen", ""])
    assert (read.database, read.admin_socket) == ("postgresql://environment/touchmark", tmp_path / "environment")
    assert (read.admin_host, read.webhook_host) == ("", "")


def test_each_setting_is_an_attribute_of_the_configuration(tmp_path: Path) -> None:
    for setting in SETTINGS:
        assert setting.options or setting.environment
        name = {"admin_listen": "admin_host", "webhook_listen": "webhook_host"}.get(setting.name, setting.name)
        getattr(make(tmp_path), name)
