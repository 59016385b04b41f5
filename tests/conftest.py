"""What holds for every test: nothing is left out silently, and in CI nothing is left out at all."""

from __future__ import annotations

import os

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

# Machines that run tests are slow at times: a slow example is no fault, nor are examples that take long to draw.
# In CI they are the same each time, as in Hypothesis' own profile for it: what a draw finds by chance has nothing to do
# with the change that is tested. New ones are drawn wherever else the tests run.
hypothesis.settings.register_profile(
    "touchmark",
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
)
hypothesis.settings.load_profile("touchmark")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs_root: runs only as root (own network namespaces or capabilities)")
    config.addinivalue_line("markers", "kubernetes: needs a real API server; `make test-kubernetes` runs these alone")
    config.addinivalue_line("markers", "each_release: depends on the API server's release; `make test-releases`")
    config.addinivalue_line("markers", "peers: needs other implementations; `make test-peers` runs these alone")
    config.addinivalue_line("markers", "node: needs a real node; `make test-node` runs these alone")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("needs_root"):
            item.add_marker(pytest.mark.skip(reason="needs root: own network namespaces or capabilities"))


# What takes longest for its number of tests, longest first. pytest-xdist starts with what has most tests and would end
# with these: one worker would still be at the last of them when the others have nothing left.
_LONG = (
    "tests/e2e",
    "tests/kubernetes/test_cli_install.py",
    "tests/kubernetes/test_admin_access.py",
    "tests/kubernetes/test_rights.py",
    "tests/sidecar/pump/test_streams.py",
    "tests/test_operate_the_ca.py",
    "tests/ca/rotation/test_rotation_killed.py",
    "tests/cli/demo/test_story.py",
    "tests/test_tutorial.py",
    "tests/ca/distribution/test_replica_sync.py",
    "tests/bench/soak/test_soak.py",
    "tests/cli/demo/test_run.py",
    "tests/ca/runtime/test_offline.py",
    "tests/sidecar/runtime/test_serve.py",
    "tests/ca/test_main.py",
    "tests/ca/backup/test_export.py",
    "tests/ca/distribution/test_replicas_killed.py",
    "tests/releases/test_database.py",
    "tests/sidecar/tunnel/test_gone_peer.py",
)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types.
    """Which tests come first, and stay together on one worker: a file's, and all that share the end-to-end mesh."""

    def schedule(self) -> None:
        is_first = self.collection is None
        super().schedule()
        if is_first:
            for scope in reversed(_LONG):
                if scope in self.workqueue:
                    self.workqueue.move_to_end(scope, last=False)

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::", 1)[0]
        return "tests/e2e" if path.startswith("tests/e2e/") else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling:
    return Scheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI (``CI=true``) a skipped test fails the run."""
    if os.environ.get("CI") == "true" and _skipped(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name what was left out, and why, in the last lines."""
    skipped = _skipped(config)
    if not skipped:
        return
    terminalreporter.section("left out on this machine")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.write_line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")
    if os.environ.get("CI") == "true":
        terminalreporter.write_line("CI=true: nothing may be left out here, so this run fails", red=True)


def _skipped(config: pytest.Config) -> list[pytest.TestReport | pytest.CollectReport]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if not isinstance(reporter, pytest.TerminalReporter):
        return []
    return [
        report
        for report in reporter.stats.get("skipped", [])
        if isinstance(report, pytest.TestReport | pytest.CollectReport)
    ]
