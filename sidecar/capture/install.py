"""``python -m sidecar.capture.install``: installs the redirect table in a pod's network namespace, and ends.

The pod's first init container: root with NET_ADMIN and nothing else. Belongs here: options, and one line for each
fault. Doesn't: the rules (``redirect_table.py``), the command (``redirect.py``). A second run replaces the table.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from shared.model.errors import InputError, MachineError, TouchmarkError
from shared.model.kubernetes.contract import HEALTH_PORT, INBOUND_PORT, OUTBOUND_PORT, SIDECAR_UID, TUNNEL_PORT
from sidecar.capture.redirect import install_redirect
from sidecar.capture.redirect_table import RedirectRules
from sidecar.settings.parsing import parse_natural, parse_network, parse_port

MAX_EXCLUSIONS = 1024


def main(arguments: Sequence[str]) -> int:
    """Install the table and return the process's exit code: 0, or that of the error."""
    try:
        rules = read_rules(arguments)
        if os.geteuid() != 0:
            raise MachineError("the redirect is installed by root", hint="runAsUser: 0, capabilities: add [NET_ADMIN]")
        install_redirect(rules)
    except TouchmarkError as error:
        hint = f" ({error.hint})" if error.hint else ""
        print(f"error: {error.message}{hint} [{error.code}]", file=sys.stderr)
        return error.exit_code
    print("the redirect is installed", file=sys.stderr)
    return 0


def read_rules(arguments: Sequence[str]) -> RedirectRules:
    """Read the options.

    Raises:
        InputError: one is unknown or wrong, or they don't fit together.
    """
    options = _make_parser().parse_args(list(arguments))
    for given in (
        options.exclude_inbound_port,
        options.exclude_outbound_port,
        options.exclude_outbound_cidr,
        options.hold_port,
    ):
        if len(given) > MAX_EXCLUSIONS:
            raise InputError(f"more than {MAX_EXCLUSIONS} values of one option")
    return RedirectRules(
        outbound_port=parse_port(options.outbound_port),
        inbound_port=parse_port(options.inbound_port),
        tunnel_port=parse_port(options.tunnel_port),
        health_port=parse_port(options.health_port),
        uid=parse_natural(options.uid, least=1, most=2**32 - 2),
        exclude_inbound_ports=tuple(parse_port(each) for each in options.exclude_inbound_port),
        exclude_outbound_ports=tuple(parse_port(each) for each in options.exclude_outbound_port),
        exclude_outbound_networks=tuple(parse_network(each) for each in options.exclude_outbound_cidr),
        holds_connects=options.hold_connects,
        hold_ports=tuple(parse_port(each) for each in options.hold_port),
    )


def _split(text: str) -> list[str]:
    return text.split(",")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message, hint="see `python -m sidecar.capture.install --help`")


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sidecar.capture.install",
        description="Redirects this network namespace's TCP, v4 and v6, to the sidecar that starts next.",
        allow_abbrev=False,
    )
    for name, metavar, what in (
        ("--exclude-inbound-port", "PORT", "reached without the sidecar"),
        ("--exclude-outbound-port", "PORT", "dialled without the sidecar"),
        ("--exclude-outbound-cidr", "CIDR", "dialled without the sidecar"),
    ):
        parser.add_argument(
            name, f"{name}s", action="extend", default=[], type=_split, metavar=f"{metavar}[,{metavar}…]",
            help=f"{what}; may be repeated",
        )  # fmt: skip
    parser.add_argument(
        "--hold-connects",
        action="store_true",
        help="let connect() wait until the sidecar, which has NET_ADMIN, lets it",
    )
    parser.add_argument(
        "--hold-port", action="extend", default=[], type=_split, metavar="PORT[,PORT…]",
        help="only towards these ports; may be repeated",
    )  # fmt: skip
    parser.add_argument("--uid", default=str(SIDECAR_UID), help="the sidecar's user, not captured (%(default)s)")
    for name, default in (
        ("--outbound-port", OUTBOUND_PORT),
        ("--inbound-port", INBOUND_PORT),
        ("--tunnel-port", TUNNEL_PORT),
        ("--health-port", HEALTH_PORT),
    ):
        parser.add_argument(name, default=str(default), metavar="PORT", help="of the sidecar (%(default)s)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
