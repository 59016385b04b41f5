"""Reading the user's kubeconfig: the API server's address, its roots and the user's credentials. Does I/O.

Belongs here: all use of the library ``kubernetes``, whose loader knows tokens, client certificates, exec plugins and
OpenID Connect. Doesn't: requests (``connection.py``), which are plain JSON: generated models of every Kubernetes object
would cost more time than the rest of a command. What the user's own ``kubectl`` trusts is trusted here, too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cli.cluster.faults import ContextError, KubeconfigError, UnauthorizedError
from cli.machine.kubeconfig_files import list_kubeconfig_files

if TYPE_CHECKING:
    from kubernetes.aio.client import Configuration

# An exec plugin may open a browser and wait for its user.
CREDENTIALS_DEADLINE_S: Final = 120.0
_LOADERS_LOGGER: Final = "kubernetes.aio.config.kube_config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """All that a connection to an API server needs.

    Attributes:
        server: ``https://host:port``, without a slash at its end.
        context: of the kubeconfig; empty for a pod's own service account.
        tls: None for ``http://``.
        authorization: the header's value; empty for a client certificate.
        certificate, key: the client certificate with its intermediates, and its key, PEM; empty: there is none.
        server_name: expected in the server's certificate; empty: its host.
        proxy: URL; empty: what the environment says.
    """

    server: str
    context: str
    tls: ssl.SSLContext | None = field(repr=False)
    authorization: str = field(repr=False, default="")
    certificate: bytes = field(repr=False, default=b"")
    key: bytes = field(repr=False, default=b"")
    server_name: str = ""
    proxy: str = ""


async def load_access(kubeconfig: str = "", context: str = "") -> Access:
    """Read the kubeconfig and get the credentials that it names.

    Without any kubeconfig, inside a pod: the pod's own service account, as ``kubectl`` does.

    Arguments:
        kubeconfig: files separated by colons; empty: of KUBECONFIG, else ``~/.kube/config``.
        context: empty: the current context.

    Raises:
        KubeconfigError: there is none, or it can't be used.
        ContextError: it has no such context, or none is current.
        UnauthorizedError: its exec plugin or identity provider gives no credentials.
    """
    files = list_kubeconfig_files(kubeconfig)
    if not files and not kubeconfig and not context and os.environ.get("KUBERNETES_SERVICE_HOST"):
        return _load_own_account()
    if not files:
        named = kubeconfig or os.environ.get("KUBECONFIG", "") or "~/.kube/config"
        raise KubeconfigError(
            f"no kubeconfig: {named} doesn't exist", hint="set --kubeconfig or the variable KUBECONFIG"
        )
    chosen, user = _look_into(files, context)
    if impersonated := sorted(name for name in user if name == "as" or name.startswith("as-")):
        # Passed over, requests would go out with the user's own rights, which are often the greater ones.
        raise KubeconfigError(
            f"the user of context {chosen!r} impersonates another ({', '.join(impersonated)}), which touchmark can't",
            hint="select with --context one whose user has the credentials itself",
        )
    return await _load_files(files, chosen, user)


def _look_into(files: list[Path], context: str) -> tuple[str, dict[str, Any]]:
    """Return the context to use and its user, before the library looks: its errors don't name what there is."""
    import yaml

    contexts: dict[str, dict[str, Any]] = {}
    users: dict[str, dict[str, Any]] = {}
    current = ""
    for path in files:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            for found, kind, part in ((contexts, "contexts", "context"), (users, "users", "user")):
                for item in content.get(kind) or []:
                    found.setdefault(item["name"], item.get(part) or {})
            current = current or content.get("current-context") or ""  # The first one holds, as for kubectl.
        except (OSError, UnicodeDecodeError) as error:
            raise KubeconfigError(f"can't read {path}: {error}") from error
        except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
            raise KubeconfigError(f"{path} is not a kubeconfig: {error}") from error
    known = f"contexts: {', '.join(sorted(contexts))}" if contexts else "it has none"
    if not context and not current:
        raise ContextError("the kubeconfig has no current context", hint=f"select one with --context; {known}")
    chosen = context or current
    if chosen not in contexts:
        raise ContextError(f"the kubeconfig has no context {chosen!r}", hint=known)
    return chosen, users.get(contexts[chosen].get("user", ""), {})


async def _load_files(files: list[Path], context: str, user: dict[str, Any]) -> Access:
    from kubernetes.aio.client import Configuration
    from kubernetes.aio.config import ConfigException, load_kube_config

    configuration = Configuration()
    said = _Listener()
    logger = logging.getLogger(_LOADERS_LOGGER)
    logger.addHandler(said)
    was_passed_on, logger.propagate = logger.propagate, False
    try:
        async with asyncio.timeout(CREDENTIALS_DEADLINE_S):
            await load_kube_config(
                config_file=os.pathsep.join(str(path) for path in files),
                context=context,
                client_configuration=configuration,
                persist_config=False,
            )
        access = _make_access(configuration, context)
    except TimeoutError as error:
        raise UnauthorizedError(f"no credentials within {CREDENTIALS_DEADLINE_S:.0f} s") from error
    except (ConfigException, OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        # The library raises arbitrary errors for a kubeconfig that lacks something.
        raise KubeconfigError(
            f"context {context!r} of the kubeconfig can't be used: {error}", hint="does `kubectl version` work with it?"
        ) from error
    finally:
        logger.removeHandler(said)
        logger.propagate = was_passed_on
    if "exec" in user and not access.authorization and not configuration.cert_file:
        # It logs a plugin's failure and continues without credentials.
        command = (user.get("exec") or {}).get("command", "")
        raise UnauthorizedError(
            f"the credential plugin {command!r} failed: {'; '.join(said.messages) or 'it returned no credentials'}",
            hint=f"run it by hand, or log in again; it is the user of context {context!r}",
        )
    return access


def _load_own_account() -> Access:
    from kubernetes.aio.client import Configuration
    from kubernetes.aio.config import ConfigException, load_incluster_config

    configuration = Configuration()
    try:
        load_incluster_config(client_configuration=configuration)
        return _make_access(configuration, "")
    except (ConfigException, OSError, ValueError) as error:
        raise KubeconfigError(
            f"no kubeconfig, and this pod's service account can't be used: {error}",
            hint="set --kubeconfig",
        ) from error


def _make_access(configuration: Configuration, context: str) -> Access:
    keys = configuration.api_key
    certificate, key = configuration.cert_file, configuration.key_file
    return Access(
        server=configuration.host.rstrip("/"),
        context=context,
        tls=_make_tls(configuration) if configuration.host.startswith("https:") else None,
        authorization=keys.get("BearerToken") or keys.get("authorization") or "",
        certificate=Path(certificate).read_bytes() if certificate and key else b"",
        key=Path(key).read_bytes() if certificate and key else b"",
        server_name=configuration.tls_server_name or "",
        proxy=configuration.proxy or "",
    )


def _make_tls(configuration: Configuration) -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    # Clusters' own roots often lack what RFC 5280 asks of public ones; kubectl doesn't mind, either.
    tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if configuration.cert_file:
        tls.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:  # The kubeconfig says insecure-skip-tls-verify.
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return tls


class _Listener(logging.Handler):
    """Keeps what the library only logs."""

    def __init__(self) -> None:
        super().__init__(level=logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages = [*self.messages[-4:], record.getMessage()[:500]]
