"""``touchmark ca``: serve, join-token, status, rotate issuer, rotate root, taint, backup, restore, rewrap."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import backup, evict, join_token, journal, options, rotate, taint
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from cli.admin.client import AdminClient
    from cli.commands.shapes import CAStatusWithSidecars
    from shared.model.wire.admin import CAStatus, SidecarList

_STATUS: JsonResult[CAStatusWithSidecars] = JsonResult()

app = typer.Typer(
    no_args_is_help=True, help="Run the certificate authority, let sidecars join, rotate its authorities."
)
app.add_typer(rotate.app, name="rotate")
app.add_typer(join_token.app, name="join-token")
app.command("taint", cls=options.TargetCommand)(taint.taint)
app.command("journal", cls=options.TargetCommand)(journal.journal)
app.command("evict", cls=options.TargetCommand)(evict.evict)
app.command("backup-key")(backup.backup_key)
app.command("backup", cls=options.TargetCommand)(backup.backup)
app.command("restore")(backup.restore)
app.command("rewrap")(backup.rewrap)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    data_dir: Annotated[Path | None, typer.Option(help="Directory of the store.")] = None,
    kek_file: Annotated[
        Path | None, typer.Option(help="The key-encryption key; created at the first start if it is missing.")
    ] = None,
    listen: Annotated[str, typer.Option(help="HOST:PORT to listen on for sidecars.")] = "",
    admin_socket: options.AdminSocket = None,
    trust_domain: Annotated[str, typer.Option(help="The SPIFFE trust domain.")] = "",
    leaf_lifetime_s: Annotated[
        int, typer.Option(help="Lifetime of certificates in seconds, 300 to 86400; 0: the default.")
    ] = 0,
) -> None:
    """Run the CA in the foreground. The first start creates everything it needs.

    Further options are passed on (`python -m ca --help` lists them).

    Examples: touchmark ca serve · touchmark ca serve --listen 198.18.0.1:15443 --trust-domain example.org
    """
    from cli.machine.component import become_component

    given = {
        "--data-dir": str(data_dir or ""),
        "--kek-file": str(kek_file or ""),
        "--listen": listen,
        "--admin-socket": str(admin_socket or ""),
        "--trust-domain": trust_domain,
        "--leaf-lifetime-s": str(leaf_lifetime_s or ""),
    }
    named = [part for option, value in given.items() if value for part in (option, value)]
    become_component("ca", [*named, *context.args])


@app.command(cls=options.TargetCommand)
@prints(_STATUS)
def status(
    context: typer.Context,
    as_json: options.Json = False,
) -> None:
    """Show the CA, its authorities and the sidecars that joined.

    Examples: touchmark ca status · touchmark ca status --json
    """
    import msgspec

    from cli.backends.session import ask_admin
    from cli.commands.shapes import CAStatusWithSidecars

    async def ask(client: AdminClient) -> tuple[CAStatus, SidecarList]:
        return await client.get_status(), await client.list_sidecars()

    ca_status, sidecars = ask_admin(options.get_target(context), ask)
    if as_json:
        _STATUS.print(CAStatusWithSidecars(**msgspec.structs.asdict(ca_status), sidecars=sidecars.sidecars))
    else:
        _show_status(ca_status, sidecars)


def _show_status(status: CAStatus, sidecars: SidecarList) -> None:
    from cli.admin.overview import examine_sidecar_clocks, examine_undone_evictions
    from cli.text.duration import format_duration, format_time
    from cli.text.findings import print_findings
    from cli.text.output import name_authority, print_line, print_table

    print_line(
        f"CA of {status.trust_domain}, version {status.version}, up {format_duration(status.now - status.started)}"
    )
    print_line(f"listens on {status.listen}; data in {status.data_dir}; root pin {status.root_pin}")
    made = " (generated at the first start: back it up separately from the data)" if status.kek_generated else ""
    print_line(f"key-encryption key {status.kek_file}{made}")
    print_line(
        f"{status.certificates_alive} certificates alive, {format_duration(status.leaf_lifetime_s)} each;"
        f" trust bundle {status.bundle_sequence}; rotation: {rotate.describe_rotation(status.rotation)}"
    )
    print_line()
    print_table(
        ("AUTHORITY", "KIND", "PHASE", "EXPIRES", "ALIVE", "NAME"),
        (
            (
                a.authority_id,
                a.kind,
                a.phase,
                format_time(a.not_after),
                str(a.certificates_alive),
                name_authority(a.subject),
            )
            for a in status.authorities
        ),
        empty="no authorities",
    )
    print_line()
    clocks = examine_sidecar_clocks(sidecars.sidecars)
    print_findings([*([] if clocks.is_well else [clocks]), *examine_undone_evictions(status)])
    print_table(
        ("SIDECAR", "WORKLOAD", "ADDRESSES", "CAPTURE", "CONNECTED", "BUNDLE", "CLOCK", "LAST SEEN"),
        (
            (
                s.instance,
                s.workload,
                " ".join(s.addresses) or "-",
                s.capture,
                "evicted" if s.evicted is not None else "yes" if s.connected else "no",
                str(s.installed_sequence),
                "-" if s.clock_offset_s is None else f"{round(s.clock_offset_s):+} s",
                format_time(s.last_seen),
            )
            for s in sidecars.sidecars
        ),
        empty="no sidecar has joined; create a token with `touchmark ca join-token`",
    )
