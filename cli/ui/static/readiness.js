// Is explicit mode safe for a namespace, what is missing, each with its fix; and how much was observed.

import { html, useEffect, useState } from "./vendor/preact.js";
import { Act } from "./act.js";
import { useAnswer } from "./api.js";
import { makeLink } from "./route.js";
import { Fault, Fix, Select, SINCE, Table } from "./pieces.js";
import { count, Mark, writeAge, writeTime } from "./words.js";

export function Ready({ name, since, tick, start, say }) {
  const [turn, setTurn] = useState(0);
  const { data, error, isLoading } = useAnswer("readiness", { namespace: name, since }, tick + turn);
  const { data: rights } = useAnswer("rights", { namespace: name }, tick);
  const { data: written } = useAnswer("rules", { namespace: name, since }, tick + turn);
  const verdict = data?.readiness.verdict ?? "unknown";
  const summary = data ? `${name} is ${verdict}, ${count(data.causes.length, "change")} missing` : "";
  useEffect(() => {
    // What was done is said last: it isn't overwritten by the answer that follows.
    if (summary && !isLoading && !turn) say(summary);
  }, [summary, isLoading]);
  const controls = html`<div class="controls"><${Select} label="Seen in the" name="since" value=${since} options=${SINCE} /></div>`;
  if (error) return html`${controls}<${Fault} error=${error} />`;
  if (!data) return html`${controls}<p>Loading…</p>`;
  const { readiness, causes, failures, refused } = data;
  const closed = refused.reduce((sum, each) => sum + each.connections, 0);
  const wanted = readiness.mode === "explicit" ? "permissive" : "explicit";
  const command = `touchmark mode ${name} ${wanted}${start?.options ? ` ${start.options}` : ""}`;
  return html`
    ${controls}
    <p class="lead"><${Mark} word=${verdict} shown=${verdict.toUpperCase()} /> The mode is ${readiness.mode}. ${readiness.sidecars_reported} of ${count(readiness.sidecars_total, "sidecar")} reported.</p>
    ${readiness.workload_modes?.length ? html`<p class="hint">With a mode of their own, so not looked at here: ${readiness.workload_modes.map((each) => `${each.service_account} (${each.mode})`).join(", ")}. The command <code>touchmark ready ${name} --workload NAME</code> does.</p>` : null}
    ${readiness.unknowns.length ? html`<h2>Not known</h2><ul>${readiness.unknowns.map((each) => html`<li>${each}</li>`)}</ul>` : null}
    ${causes.length ? html`<h2>${count(causes.length, "change is", "changes are")} missing, or explicit mode would refuse connections</h2>` : html`<p>Explicit mode would refuse none of the recorded connections${refused.length ? " but those of refused programs" : ""}.</p>`}
    <ol class="causes">${causes.map((cause) => html`<${Cause} cause=${cause} name=${name} since=${since} say=${say}
      command=${rights?.switches ? written?.rules[cause.fix.rule]?.join("\n") : ""} done=${() => setTurn((old) => old + 1)} />`)}</ol>
    ${refused.length ? html`<h2>Of refused programs</h2><p class="hint">Explicit mode closes these, as somebody wants.</p>
      <ol class="causes">${refused.map((cause) => html`<${Cause} cause=${cause} name=${name} since=${since} say=${say} />`)}</ol>` : null}
    ${readiness.mode !== "explicit" && verdict === "blocked" ? null : html`<h2>Switch</h2>
      <${Fix} say=${say} fix=${{ kind: "command", lines: [command], copied: [command] }} />
      ${rights?.switches ? html`<p class="buttons"><${Act} what=${`Switch to ${wanted}`} about=${name} say=${say} done=${() => setTurn((old) => old + 1)} command=${command}
        text=${wanted === "explicit" ? `What isn't allowed is refused from then on${closed ? `, such as what was seen of refused programs: ${count(closed, "connection")}` : ""}.` : "What isn't allowed goes on, marked."}
        accept=${wanted === "explicit" && verdict === "unknown" ? "Too little was seen to be sure. Switch all the same" : ""}
        request=${{ act: "mode", namespace: name, mode: wanted }} /></p>` : null}`}
    ${failures.length ? html`<h2>Failed in any mode</h2><p class="hint">No rule and no approval changes these.</p>
      <ol class="causes">${failures.map((cause) => html`<${Cause} cause=${cause} name=${name} since=${since} say=${say} />`)}</ol>` : null}
  `;
}

// `command` writes the missing rule; there is none where the user may not.
function Cause({ cause, name, since, say, command = "", done = null }) {
  const edge = cause.source && cause.destination ? makeLink(["ns", name, "edge"], { from: cause.source, to: cause.destination, port: String(cause.port), since }) : "";
  return html`<li>
    <p><strong>${cause.reason}</strong>: ${count(cause.connections, "connection")}${cause.is_next ? " (once the programs are approved)" : ""}, last ${writeTime(cause.last_seen)}</p>
    <p>${cause.text}${edge ? html` <a href=${edge}>see it<span class="unseen">: ${cause.text}</span></a>` : null}</p>
    <${Fix} fix=${cause.fix} say=${say} />
    ${command ? html`<p class="buttons"><${Act} what="Write the rule" about=${cause.text} text=${`The policy of ${name} is written as it is now, with this rule added.`} command=${command}
      request=${{ act: "rule", namespace: name, rule: cause.fix.rule, since }} say=${say} done=${done} /></p>` : null}
  </li>`;
}

export function Coverage({ name, tick, query }) {
  const since = query.since ?? "7d";
  const { data, error } = useAnswer("coverage", { namespace: name, since }, tick);
  if (error) return html`<${Fault} error=${error} />`;
  if (!data) return html`<p>Loading…</p>`;
  return html`
    <p class="lead">What wasn't seen may still happen.</p>
    <div class="controls"><${Select} label="Seen in the" name="since" value=${since} options=${SINCE} /></div>
    <${Table} label=${`Coverage of ${name}`} empty="No workload of this namespace has ever reported: nothing is known of it."
      columns=${["Workload", "Pods seen from their start", "Silent", "Restarts", "Records", "Lost", "Hours seen", "Newest", "Not known"]}
      rows=${data.workloads.map((each) => ({ key: each.workload, cells: [
        each.workload, `${each.from_start} of ${each.pods}`, each.silent, each.restarts, each.records, each.lost, each.hours_seen,
        each.newest ? `${writeAge(Math.max(0, data.now - each.newest))} ago` : "never",
        each.gaps.length ? html`<ul>${each.gaps.map((gap) => html`<li>${gap}</li>`)}</ul>` : "nothing that is looked at",
      ] }))} />
    ${data.gaps.length ? html`<ul class="doubts">${data.gaps.map((gap) => html`<li><${Mark} word="unknown" shown=${gap} /></li>`)}</ul>` : null}
    ${data.is_truncated ? html`<p class="hint">Only the newest reports were looked at: shorten the time.</p>` : null}
  `;
}
