// The programs that were seen and are neither approved nor refused, and those that were refused.

import { html, useEffect, useState } from "./vendor/preact.js";
import { Act } from "./act.js";
import { useAnswer } from "./api.js";
import { Fault } from "./pieces.js";
import { count, writeTime } from "./words.js";

export function Queue({ name, tick, say }) {
  const [turn, setTurn] = useState(0);
  const { data, error, isLoading } = useAnswer("queue", { namespace: name }, tick + turn);
  const { data: rights } = useAnswer("rights", { namespace: name }, tick);
  const summary = data ? `${count(data.total, "program waits", "programs wait")}, ${data.refused.length} refused` : "";
  useEffect(() => {
    if (summary && !isLoading && !turn) say(summary);
  }, [summary, isLoading]);
  if (error) return html`<${Fault} error=${error} />`;
  if (!data) return html`<p>Loading…</p>`;
  const shared = { name, rights: rights ?? {}, say, done: () => setTurn((old) => old + 1) };
  return html`
    <p class="lead">The digest is measured. All else is what the workload's own sidecar says of its own side.</p>
    <p class="summary">${summary}${data.waiting.length < data.total ? `; those seen last are shown` : ""}</p>
    ${data.waiting.length ? html`<ol class="causes queue">${data.waiting.map((each) => html`<${Waiting} key=${each.workload + each.program} each=${each} ...${shared} />`)}</ol>`
      : html`<p class="empty">No program waits for an approval.</p>`}
    ${data.refused.length ? html`<h2>Refused</h2><ul class="causes queue">${data.refused.map((each) => html`<${Refused} key=${each.workload + each.program} each=${each} ...${shared} />`)}</ul>` : null}
  `;
}

function label(each) {
  return `${each.path || each.program} for ${each.workload}`;
}

function Waiting({ each, name, rights, done, say }) {
  const facts = [
    ["Digest", each.program], ["Package", each.package], ["Images", each.images.join(", ")], ["New since", each.new_since],
    ["Started by", each.parents.join(" ← ")], ["Pods", each.pods.join(", ")], ["Had loaded", [each.loaded.length ? count(each.loaded.length, "object") : "", each.loaded_note].filter(Boolean).join("; ")],
    ["Seen", `${writeTime(each.first)} to ${writeTime(each.last)}`], ["Approving it allows", each.weakness],
  ].filter(([, value]) => value);
  const request = { namespace: name, workload: each.workload, program: each.program };
  const shared = { about: label(each), done, say };
  return html`<li>
    <p><strong class="name">${each.path || "path unknown"}</strong> for ${each.workload}</p>
    <dl class="facts">${facts.map(([key, value]) => html`<div><dt>${key}</dt><dd>${value}</dd></div>`)}</dl>
    <p class="buttons">
      ${rights.approves ? html`<${Act} ...${shared} what="Approve" text="The program may use the workload's identity." command=${each.approve.line}
        accept=${each.weakness ? `I know that this allows ${each.weakness}` : ""} loaded=${each.loaded} note=${each.loaded_note} request=${{ ...request, code_digest: each.code_digest, act: "approve" }} />` : null}
      ${rights.refuses ? html`<${Act} ...${shared} what="Refuse" text="Nothing proposes it again. That is remembered with your name." command=${each.refuse.line}
        request=${{ ...request, act: "refuse" }} />` : null}
    </p>
  </li>`;
}

function Refused({ each, name, rights, done, say }) {
  return html`<li>
    <p><strong class="name">${each.path || each.program}</strong> for ${each.workload}, by ${each.refused_by || "somebody"} at ${writeTime(each.refused)}</p>
    ${each.path ? html`<p class="programs">${each.program}</p>` : null}
    ${rights.refuses ? html`<p class="buttons"><${Act} about=${label(each)} done=${done} say=${say} what="Take back" text="The program may be proposed again." command=${each.take_back.line}
      request=${{ namespace: name, workload: each.workload, program: each.program, act: "take_back" }} /></p>` : null}
  </li>`;
}
