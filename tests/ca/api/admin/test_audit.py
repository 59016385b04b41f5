"""The audit log over the real socket: read in pages, pruned by its digest alone (``ca.api.admin.audit``)."""

from __future__ import annotations

import pytest

from shared.model.policy.rules import Mode, NamespaceState
from shared.model.wire import admin as api
from shared.model.wire.admin_audit import AuditMark, digest_line, read_entry
from tests.ca.running import Admin


async def test_lines_are_read_in_pages_and_removed_only_by_who_has_the_last_of_them(admin: Admin) -> None:
    for mode in (Mode.EXPLICIT, Mode.PERMISSIVE):
        await admin.ask("PUT", "/v1/namespaces/shop/mode", NamespaceState, api.ModeRequest(mode=mode))
    page = await admin.get("/v1/audit", api.AuditPage)
    first = await admin.get("/v1/audit", api.AuditPage, limit="1")
    assert first.lines == page.lines[:1] and not first.is_last
    newest = await admin.get("/v1/audit", api.AuditPage, limit="1", newest="true")
    assert read_entry(newest.lines[0]).before["mode"] == "explicit"
    assert (await admin.get("/v1/audit", api.AuditPage, since="9e9")).lines == ()
    mark = AuditMark(sequence=2, digest=digest_line(page.lines[1]))
    wrong = AuditMark(sequence=1, digest=mark.digest)
    assert (await admin.fail("DELETE", "/v1/audit", 409, query={"through": str(wrong)})).code == "conflict"
    left = await admin.ask("DELETE", "/v1/audit", api.AuditPage, query={"through": str(mark)})
    assert left.anchor == mark
    assert read_entry(left.lines[0]).actor.kind == "socket"


@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("DELETE", {}),
        ("DELETE", {"through": "2"}),
        ("DELETE", {"through": "²:" + "0" * 64}),
        ("GET", {"after": "-1"}),
        ("GET", {"limit": "0"}),
        ("GET", {"limit": "1001"}),
        ("GET", {"act": "mode.set"}),
    ],
    ids=repr,
)
async def test_what_cannot_be_asked_is_refused(admin: Admin, method: str, query: dict[str, str]) -> None:
    assert (await admin.fail(method, "/v1/audit", 400, query=query)).code == "bad_input"
