"""``touchmark inject``: the webhook's work on YAML files, without a cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from cli.commands.shapes import ExplainedSettings, InjectionExplanation, InjectionReport, ObjectList, RefusedObject
    from cli.text.yaml_stream import StreamDocument
    from shared.model.injection.containers import InjectionOptions
    from shared.model.injection.refusals import InjectionRefusedError
    from shared.model.injection.workloads import Template

_NOBODY_ASKS = 'no pod asks for injection (annotation touchmark.dev/inject: "true"; --all includes the others)'
# Stands for an image where only settings are asked for, which don't depend on it.
_UNNAMED_IMAGE = "touchmark/sidecar:unnamed"

_OBJECTS: JsonResult[ObjectList] = JsonResult(note="a `List` of all documents")
_REPORT: JsonResult[InjectionReport] = JsonResult(when="--check")
_EXPLAINED: JsonResult[InjectionExplanation] = JsonResult(when="--explain")


@prints(_OBJECTS, _REPORT, _EXPLAINED)
def inject(
    filename: Annotated[list[Path], typer.Option("--filename", "-f", help="A YAML file, or - for standard input.")],
    sidecar_image: Annotated[
        str,
        typer.Option(
            "--sidecar-image", envvar="TOUCHMARK_SIDECAR_IMAGE", help="The sidecar's image; --explain needs none."
        ),
    ] = "",
    ca: Annotated[
        str, typer.Option("--ca", help="HOST:PORT of the CA for sidecars.", show_default="the Service touchmark-ca")
    ] = "",
    trust_domain: Annotated[str, typer.Option("--trust-domain", help="The CA's trust domain.")] = "touchmark.local",
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Namespace of objects that don't name one.")
    ] = "default",
    pull_policy: Annotated[str, typer.Option("--pull-policy", help="Always, IfNotPresent or Never.")] = "IfNotPresent",
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Also inject pods that don't ask for it, unless they opt out, as a namespace's label does."
        ),
    ] = False,
    probe_secret_file: Annotated[
        Path | None,
        typer.Option(
            "--probe-secret-file",
            help="32 hex digits for the paths of probes and hooks, so that repeated runs print the same.",
            show_default="drawn for each pod template",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only report what would be refused; print no documents.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Only list each pod's settings and whose word each is; print no documents."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Inject the sidecar into Pods, Deployments and other objects with a pod template, as the webhook would.

    Other documents pass through unchanged. If any object is refused, nothing is printed, so that `kubectl apply -f -`
    never gets half of the output. What is injected already keeps its probes' paths. With --check or --explain, refusals
    end with exit code 3.

    A Namespace among the documents gives its pods the defaults that its annotations say, as it does in the cluster.

    Examples: touchmark inject -f web.yaml --sidecar-image registry.example/touchmark/sidecar:0.2.0 | kubectl apply -f -
    · touchmark inject -f web.yaml --sidecar-image registry.example/touchmark/sidecar:0.2.0 --check · touchmark inject
    -f web.yaml --explain
    """
    from cli.commands.shapes import ObjectList
    from cli.text.output import print_note
    from cli.text.yaml_stream import write_stream
    from shared.model.errors import InputError, RefusedError
    from shared.model.identity.identity import check_trust_domain
    from shared.model.injection.containers import DEFAULT_CA_ADDRESS, InjectionOptions

    if not sidecar_image and not explain:
        raise InputError(
            "the sidecar's image isn't named",
            hint="--sidecar-image registry.example/touchmark/sidecar:0.2.0, or TOUCHMARK_SIDECAR_IMAGE",
        )
    made = InjectionOptions(
        sidecar_image=sidecar_image or _UNNAMED_IMAGE,
        trust_domain=check_trust_domain(trust_domain),
        ca_address=_check_address(ca or DEFAULT_CA_ADDRESS),
        pull_policy=pull_policy,
        draw_path_secret=_choose_secret(probe_secret_file),
    )
    work = _Work(options=made, namespace=namespace, is_asked_for_all=everything)
    read = _read(filename)
    for document in read:
        work.note_namespaces(document)
    documents = [(document, work.inject(document)) for document in read]
    if explain:
        _conclude_explanation(work, as_json=as_json)
        return
    if not (check and as_json):
        for each in work.refused:
            print_note(f"✗ {each.where}: {each.code}: {each.message}\n  hint: {each.hint}")
    if check:
        _conclude_check(work, as_json=as_json)
        return
    if work.refused:
        raise RefusedError(
            f"{len(work.refused)} of {work.count} can't be injected; nothing is printed",
            hint='fix them, or annotate them with touchmark.dev/inject: "false"',
        )
    if as_json:
        items = [value for _, value in documents if value is not None]
        _OBJECTS.print(ObjectList(apiVersion="v1", kind="List", items=items))
    else:
        sys.stdout.write(write_stream(documents))
        sys.stdout.flush()
    print_note(work.summarise())


def _conclude_check(work: _Work, *, as_json: bool) -> None:
    from cli.commands.shapes import InjectionReport
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_note

    if as_json:
        _REPORT.print(
            InjectionReport(
                injected=work.injected,
                not_asked=work.not_asked,
                refused=work.refused,
                passed_over=work.passed_over,
            )
        )
    else:
        print_note(work.summarise())
    if work.refused:
        raise typer.Exit(ExitCode.CHECK_FAILED)


def _conclude_explanation(work: _Work, *, as_json: bool) -> None:
    from cli.commands.shapes import InjectionExplanation
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_line, print_note, print_table

    if as_json:
        _EXPLAINED.print(InjectionExplanation(pods=work.explained, refused=work.refused))
    else:
        for each in work.refused:
            print_note(f"✗ {each.where}: {each.code}: {each.message}\n  hint: {each.hint}")
        for number, pod in enumerate(work.explained):
            if number:
                print_line()
            print_line(pod.where)
            rows = [(one["annotation"], one["value"] or "-", one["source"], one["takes"]) for one in pod.settings]
            print_table(("SETTING", "VALUE", "FROM", "TAKES"), rows, empty="")
        if not work.explained:
            print_line(_NOBODY_ASKS)
    if work.refused:
        raise typer.Exit(ExitCode.CHECK_FAILED)


class _Work:
    """What has been done so far, by place."""

    def __init__(self, *, options: InjectionOptions, namespace: str, is_asked_for_all: bool) -> None:
        self._options = options
        self._namespace = namespace
        self._is_asked_for_all = is_asked_for_all
        self.injected: list[str] = []
        self.not_asked: list[str] = []
        self.passed_over: list[str] = []
        self.refused: list[RefusedObject] = []
        self.explained: list[ExplainedSettings] = []
        self._namespaces: dict[str, dict[str, str]] = {}

    @property
    def count(self) -> int:
        return len(self.injected) + len(self.not_asked) + len(self.passed_over) + len(self.refused)

    def note_namespaces(self, document: StreamDocument) -> None:
        """Take the defaults of the Namespaces in a document."""
        from shared.model.injection.refusals import InjectionRefusedError
        from shared.model.injection.workloads import find_namespaces

        try:
            self._namespaces |= dict(find_namespaces(document.value))
        except InjectionRefusedError as error:
            self._refuse(f"{document.source}:{document.line}", error)

    def inject(self, document: StreamDocument) -> Any:
        """Return the document's value with what asked injected; the very same object when nothing did."""
        from cli.text.output import print_note
        from shared.model.injection.refusals import InjectionRefusedError
        from shared.model.injection.workloads import find_templates, inject_template

        value, where = document.value, f"{document.source}:{document.line}"
        try:
            templates = list(find_templates(value))
        except InjectionRefusedError as error:
            self._refuse(where, error)
            return value
        for template in templates:
            where = f"{document.source}:{document.line} {template.kind}/{template.name} {template.path}".rstrip()
            try:
                outcome = inject_template(
                    value,
                    template,
                    namespace=self._namespace,
                    namespace_annotations=self._namespaces,
                    is_asked_for_all=self._is_asked_for_all,
                    options=self._options,
                )
            except InjectionRefusedError as error:
                self._refuse(where, error)
                continue
            if outcome is None:
                self.not_asked.append(where)
                continue
            value, injection = outcome
            (self.injected if injection.passed_over is None else self.passed_over).append(where)
            if injection.passed_over is None:
                self.explained.append(self._explain(where, template))
            for warning in injection.warnings:
                print_note(f"! {where}: {warning}")
        return value

    def _explain(self, where: str, template: Template) -> ExplainedSettings:
        import dataclasses

        from cli.commands.shapes import ExplainedSettings
        from shared.model.injection.defaults import explain_settings, read_defaults
        from shared.model.injection.pod_json import get_annotations

        namespace = template.namespace or self._namespace
        defaults = read_defaults(self._namespaces.get(namespace, {}))
        settings = explain_settings(get_annotations(template.pod), defaults)
        return ExplainedSettings(
            where=where,
            namespace=namespace,
            settings=[dataclasses.asdict(each) for each in settings],
            faults=list(defaults.faults),
        )

    def summarise(self) -> str:
        """Say it in one line."""
        text = f"{len(self.injected)} of {self.count} injected"
        if self.refused:
            text += f", {len(self.refused)} refused"
        if self.passed_over:
            text += f", {len(self.passed_over)} passed over"
        if self.not_asked:
            hint = "" if self._is_asked_for_all else ' (annotation touchmark.dev/inject: "true"; --all includes them)'
            text += f", {len(self.not_asked)} didn't ask{hint}"
        return text

    def _refuse(self, where: str, error: InjectionRefusedError) -> None:
        from cli.commands.shapes import RefusedObject

        self.refused.append(RefusedObject(where=where, code=str(error.refusal), message=error.message, hint=error.hint))


def _read(paths: list[Path]) -> list[StreamDocument]:
    from cli.machine.input_files import read_texts
    from cli.text.yaml_stream import read_stream

    return [document for text, source in read_texts(paths) for document in read_stream(text, source)]


def _choose_secret(path: Path | None) -> Callable[[], str]:
    import secrets

    from shared.model.errors import InputError
    from shared.model.injection.probes import SECRET

    if path is None:
        return lambda: secrets.token_hex(16)
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"can't read {path}", hint="--probe-secret-file names a readable file") from error
    if not SECRET.fullmatch(text):
        raise InputError(f"{path} doesn't hold 32 hex digits", hint="make it with `openssl rand -hex 16`")
    return lambda: text


def _check_address(text: str) -> str:
    from shared.model.errors import InputError

    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise InputError(f"--ca: not an address: {text[:120]!r}", hint="write HOST:PORT")
    return text
