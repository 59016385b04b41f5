"""``touchmark trust``: add, list, remove the other trust domains whose SPIFFE peers this mesh knows; export our own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from shared.model.identity.foreign import ForeignDomain
    from shared.model.wire.admin import ForeignDomainList

_DOMAINS: JsonResult[ForeignDomainList] = JsonResult()

app = typer.Typer(
    no_args_is_help=True,
    help="Manage other trust domains, whose peers speak plain mutual TLS. Such peers still need an allow rule.",
)

_Domain = Annotated[str, typer.Argument(help="The trust domain's name, such as partner.example.")]


@app.command(cls=options.TargetCommand)
@prints(_DOMAINS)
def add(
    context: typer.Context,
    domain: _Domain,
    file: Annotated[Path, typer.Argument(help="PEM file with all its roots; they replace the previous ones.")],
    as_json: options.Json = False,
) -> None:
    """Add a trust domain with its roots, or replace the roots of a known one.

    While its root rotates, give both roots until the old one is retired. Sidecars get the change at once, and close
    connections of peers that no longer verify.

    Example: touchmark trust add partner.example roots.pem
    """
    from cli.backends.session import ask_admin
    from cli.text.output import print_line
    from shared.model.wire.admin import ForeignDomainRequest

    wanted = _read_roots(domain, file)
    answer = ask_admin(
        options.get_target(context),
        lambda client: client.put_foreign_domain(domain, ForeignDomainRequest(roots=wanted.roots)),
    )
    if as_json:
        _DOMAINS.print(answer)
        return
    print_line(f"{domain} is added with {len(wanted.roots)} root{'s' if len(wanted.roots) > 1 else ''}")
    _show(answer, only=domain)


@app.command("list", cls=options.TargetCommand)
@prints(_DOMAINS)
def list_domains(
    context: typer.Context,
    as_json: options.Json = False,
) -> None:
    """List the other trust domains and their roots.

    Examples: touchmark trust list · touchmark trust list --json
    """
    from cli.backends.session import ask_admin

    answer = ask_admin(options.get_target(context), lambda client: client.list_foreign_domains())
    if as_json:
        _DOMAINS.print(answer)
    else:
        _show(answer)


@app.command(cls=options.TargetCommand)
@prints(_DOMAINS)
def remove(
    context: typer.Context,
    domain: _Domain,
    as_json: options.Json = False,
) -> None:
    """Remove a trust domain: its peers are refused from now on, and their live connections closed.

    Example: touchmark trust remove partner.example
    """
    from cli.backends.session import ask_admin
    from cli.text.output import print_line

    answer = ask_admin(options.get_target(context), lambda client: client.remove_foreign_domain(domain))
    if as_json:
        _DOMAINS.print(answer)
    else:
        print_line(f"{domain} is removed")


@app.command(cls=options.TargetCommand)
def export(
    context: typer.Context,
) -> None:
    """Print this mesh's own roots (PEM), for partners to verify its programs. They change when the root rotates.

    Example: touchmark trust export > touchmark-roots.pem
    """
    import ssl

    from cli.backends.session import ask_admin
    from cli.text.output import print_line

    answer = ask_admin(options.get_target(context), lambda client: client.list_foreign_domains())
    for der in answer.own_roots:
        print_line(ssl.DER_cert_to_PEM_cert(der).rstrip())


def _read_roots(domain: str, file: Path) -> ForeignDomain:
    from shared.model.errors import InputError
    from shared.model.trust.foreign_certificate import MAX_PEM_BYTES, parse_roots

    try:
        with file.open("rb") as opened:
            pem = opened.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise InputError(f"can't read {file}: {error.strerror}", hint="name a file of PEM certificates") from error
    try:
        return parse_roots(domain, pem)
    except InputError as error:
        raise InputError(f"{file}: {error.message}", hint=error.hint) from error


def _show(answer: ForeignDomainList, *, only: str = "") -> None:
    from cli.text.duration import format_time
    from cli.text.output import print_table

    print_table(
        ("TRUST DOMAIN", "ROOT", "EXPIRES", "SHA-256"),
        (
            (domain.trust_domain, root.subject or "-", format_time(root.not_after), root.fingerprint)
            for domain in answer.domains
            if only in ("", domain.trust_domain)
            for root in domain.roots
        ),
        empty=f"no trust domain besides our own, {answer.own}; add one with `touchmark trust add`",
    )
