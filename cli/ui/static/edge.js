// One link: what would let it pass, its programs, both sides' verdicts with rule and reason, the latest decisions.

import { html } from "./vendor/preact.js";
import { useAnswer } from "./api.js";
import { makeLink } from "./route.js";
import { Fault, Fix, Select, SINCE, Table } from "./pieces.js";
import { Mark, writeTime } from "./words.js";

const SIDES = { egress: "source's sidecar", ingress: "destination's sidecar" };

export function Edge({ name, query, tick, start, say }) {
  const since = query.since ?? "24h";
  const { from = "", to = "", port = "" } = query;
  const { data, error } = useAnswer("edge", { namespace: name, since, source: from, destination: to, port }, tick);
  const outcomes = (data?.edges ?? []).flatMap((edge) => edge.outcomes.map((outcome) => ({ edge, outcome })));
  const reasons = [...new Set([...outcomes.map(({ outcome }) => outcome.reason), ...(data?.decisions ?? []).map((each) => each.reason)])];
  return html`
    <p><a href=${makeLink(["ns", name], { since })}>Back to ${name}</a></p>
    <div class="controls"><${Select} label="Seen in the" name="since" value=${since} options=${SINCE} /></div>
    ${error ? html`<${Fault} error=${error} />` : null}
    ${data ? html`
      ${data.fixes.length ? html`<h2>What would let it pass</h2>
        <ol class="causes">${data.fixes.map(([reason, fix]) => html`<li><p><strong>${reason}</strong></p><${Fix} fix=${fix} say=${say} /></li>`)}</ol>` : null}
      <h2>Programs and verdicts</h2>
      <${Table} label="Programs and verdicts" empty="Nothing was seen in this time."
        columns=${["Verdict", "By", "Reason", "Rule", "Mode", "Source's program", "Destination's program", "Transport", "Connections", "Last seen"]}
        rows=${outcomes.map(({ edge, outcome }, index) => ({ key: String(index), cells: describe(edge, outcome) }))} />
      ${reasons.length ? html`<h2>Why</h2><dl class="reasons">${reasons.map((reason) => html`<dt>${reason}</dt><dd>${start?.reasons[reason]?.cause ?? "A reason that this version doesn't know."}</dd>`)}</dl>` : null}
      <h2>Latest decisions</h2>
      ${data.is_partial ? html`<p class="hint">Not every decision of this time was looked at: shorten it.</p>` : null}
      ${data.decisions.length ? html`<ol class="decisions">${data.decisions.map((each) => html`<li key=${each.id}><pre tabindex="0" role="group" aria-label=${`Decision ${each.id}`}>${each.lines.join("\n")}</pre></li>`)}</ol>` : html`<p class="empty">No single decision of it is kept from this time.</p>`}
    ` : error ? null : html`<p>Loading…</p>`}
  `;
}

function describe(edge, outcome) {
  const verdict = outcome.answer === "deny" ? "deny" : outcome.would_deny ? "would deny" : "allow";
  const program = (end, why) => end.program ? html`${end.path ? html`<span class="programs">${end.path}</span>` : null}<code>${end.program}</code>` : why ? `none: ${why}` : "none";
  return [
    html`<${Mark} word=${verdict} />`, SIDES[outcome.side], outcome.reason, outcome.rule || "none", outcome.mode,
    program(edge.source, outcome.why_source), program(edge.destination, outcome.why_destination),
    outcome.transport, `${outcome.connections}${edge.is_lossy ? "+" : ""}`, writeTime(outcome.last),
  ];
}
