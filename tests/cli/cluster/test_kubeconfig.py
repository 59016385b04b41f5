"""A kubeconfig yields access, or an error that says what there is."""

from __future__ import annotations

import base64
import json
import re
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.cluster import kubeconfig
from cli.cluster.faults import ContextError, KubeconfigError, UnauthorizedError
from cli.cluster.kubeconfig import load_access
from tests.cli.fake_api import make_kubeconfig


def write(path: Path, content: dict[str, Any]) -> str:
    path.write_text(json.dumps(content))
    return str(path)


async def test_a_token_becomes_the_authorization(tmp_path: Path) -> None:
    access = await load_access(write(tmp_path / "k", make_kubeconfig("http://127.0.0.1:1/")))
    assert (access.server, access.context) == ("http://127.0.0.1:1", "fake")
    assert access.authorization == "Bearer secret-token"
    assert access.tls is None
    assert "secret" not in repr(access)


async def test_the_first_file_s_current_context_holds_and_files_are_merged(tmp_path: Path) -> None:
    first = write(tmp_path / "1", {"current-context": "fake"})
    second = write(tmp_path / "2", make_kubeconfig("http://two") | {"current-context": "other"})
    assert (await load_access(f"{first}:{second}")).server == "http://two"


async def test_without_any_it_says_which_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(KubeconfigError, match="gone doesn't exist") as caught:
        await load_access(str(tmp_path / "gone"))
    assert "--kubeconfig" in caught.value.hint


async def test_an_unknown_context_names_those_that_are_known(tmp_path: Path) -> None:
    path = write(tmp_path / "k", make_kubeconfig("http://x"))
    with pytest.raises(ContextError, match="'prod'") as caught:
        await load_access(path, "prod")
    assert "contexts: fake" in caught.value.hint
    path = write(tmp_path / "k", make_kubeconfig("http://x") | {"current-context": ""})
    with pytest.raises(ContextError, match="no current context"):
        await load_access(path)


@pytest.mark.parametrize("content", ["{", "[1]", "contexts: [1]", "a text"])
async def test_what_is_no_kubeconfig_is_named_as_such(tmp_path: Path, content: str) -> None:
    (tmp_path / "k").write_text(content)
    with pytest.raises(KubeconfigError):
        await load_access(str(tmp_path / "k"))


async def test_a_kubeconfig_that_lacks_its_cluster_can_t_be_used(tmp_path: Path) -> None:
    path = write(tmp_path / "k", make_kubeconfig("http://x") | {"clusters": []})
    with pytest.raises(KubeconfigError, match="can't be used"):
        await load_access(path)


@pytest.mark.parametrize("said", [{"as": "admin"}, {"as": "admin", "as-groups": ["system:masters"]}, {"as-uid": "7"}])
async def test_a_user_that_impersonates_another_is_refused_instead_of_taken_for_itself(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    content = make_kubeconfig("http://x")
    content["users"][0]["user"] |= said
    with pytest.raises(KubeconfigError, match=rf"impersonates another \({', '.join(said)}\)") as caught:
        await load_access(write(tmp_path / "k", content))
    assert "--context" in caught.value.hint


def make_plugin(tmp_path: Path, code: str) -> dict[str, Any]:
    script = tmp_path / "plugin.py"
    script.write_text(code)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": [str(script)],
            "interactiveMode": "Never",
        }
    }


async def test_a_credential_plugin_gives_the_token(tmp_path: Path) -> None:
    plugin = make_plugin(
        tmp_path,
        "import json, os\n"
        "info = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\n"
        "print(json.dumps({'apiVersion': info['apiVersion'], 'kind': 'ExecCredential',"
        " 'status': {'token': 'from-plugin'}}))\n",
    )
    access = await load_access(write(tmp_path / "k", make_kubeconfig("http://x", user=plugin)))
    assert access.authorization == "Bearer from-plugin"


async def test_a_failing_credential_plugin_is_named_with_what_it_said(tmp_path: Path) -> None:
    plugin = make_plugin(tmp_path, "import sys\nsys.exit('your session has ended')\n")
    with pytest.raises(UnauthorizedError, match="your session has ended"):
        await load_access(write(tmp_path / "k", make_kubeconfig("http://x", user=plugin)))


async def test_https_trusts_the_kubeconfig_s_authority_unless_it_says_otherwise(tmp_path: Path) -> None:
    content = make_kubeconfig("https://127.0.0.1:1")
    tls = (await load_access(write(tmp_path / "k", content))).tls
    assert tls is not None
    assert (tls.verify_mode, tls.check_hostname) == (ssl.CERT_REQUIRED, True)
    content["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = True
    tls = (await load_access(write(tmp_path / "k", content))).tls
    assert tls is not None
    assert tls.verify_mode is ssl.CERT_NONE
    del content["clusters"][0]["cluster"]["insecure-skip-tls-verify"]
    content["clusters"][0]["cluster"]["certificate-authority-data"] = base64.b64encode(b"no PEM").decode()
    with pytest.raises(KubeconfigError):
        await load_access(write(tmp_path / "k", content))


async def test_in_a_pod_without_an_account_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "198.19.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(KubeconfigError, match="service account"):
        await load_access()


def test_only_this_module_imports_the_library() -> None:
    """Its generated models cost more time than the rest of a command."""
    cli = Path(kubeconfig.__file__).parents[1]
    importing = [
        path.name
        for path in cli.rglob("*.py")
        if re.search(r"^\s*(from|import) kubernetes\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert importing == ["kubeconfig.py"]
