"""``touchmark ui``: says its URL, serves this user alone, and tells the browser's command line nothing."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
from contextlib import closing

import pytest

from cli.backends.target import Target
from cli.commands.ui import describe_target, written_opening
from cli.main import run
from cli.text.exit_codes import ExitCode
from cli.ui.guard import TOKEN_HEADER
from tests.cli.fake_ca import FakeCA
from tests.cli.ui.world import fill


def test_it_serves_until_it_is_interrupted(ca: FakeCA) -> None:
    fill(ca)
    environment = {**os.environ, "TOUCHMARK_ADMIN_SOCKET": str(ca.socket)}
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "ui", "--no-browser"], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        with process.stdout as output:
            url = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/#token=([\w-]{43})\n", output.readline())
            assert url is not None
            with closing(http.client.HTTPConnection("127.0.0.1", int(url[1]), timeout=60)) as connection:
                connection.request("GET", "/api/namespaces", headers={TOKEN_HEADER: url[2]})
                assert connection.getresponse().status == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == ExitCode.SUCCESS
    finally:
        process.kill()
        process.wait()


def test_without_a_ca_it_says_so_and_serves_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHMARK_ADMIN_SOCKET", "/nowhere/admin.sock")
    assert run(["ui", "--no-browser"]) == ExitCode.UNAVAILABLE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no CA here" in printed.err


def test_the_browser_is_given_a_file_that_only_this_user_reads() -> None:
    with written_opening("http://127.0.0.1:1/#token=a&b") as file:
        assert file.stat().st_mode & 0o077 == 0 or file.parent.stat().st_mode & 0o077 == 0
        assert "token" not in file.as_uri()
        assert 'content="0; url=http://127.0.0.1:1/#token=a&amp;b"' in file.read_text(encoding="utf-8")
    assert not file.exists()


def test_the_page_says_where_the_ca_is() -> None:
    assert describe_target(Target()) == "CA on this machine"
    assert "current context" in describe_target(Target(in_cluster=True))
    assert describe_target(Target(in_cluster=True, context="kind")).endswith("kind")
