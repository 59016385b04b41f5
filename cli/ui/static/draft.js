// A namespace's draft: the switch between the rules in force and the drafted ones, what the draft would decide otherwise,
// each with what would let it pass, and putting it in force.

import { html, useEffect } from "./vendor/preact.js";
import { Act } from "./act.js";
import { useAnswer } from "./api.js";
import { change, makeLink } from "./route.js";
import { Fault, Fix } from "./pieces.js";
import { count, Mark, writeTime } from "./words.js";

const RULES = [["", "Reported"], ["draft", "Draft"]];

// What putting it in force does, by its mode.
const IN_FORCE = {
  explicit: "What it doesn't allow is refused from then on. It is checked first, as a switch of the mode is.",
  permissive: "Its rules replace those in force, and the namespace is permissive from then on: what isn't allowed goes on, marked.",
  "": "Its rules replace those in force. The mode stays.",
};

export function RulesSwitch({ value }) {
  return html`<fieldset class="switch"><legend>Rules</legend>${RULES.map(([key, words]) => html`
    <label class="check"><input type="radio" name="rules" value=${key} checked=${key === value} onChange=${() => change({ rules: key, page: "" })} /> ${words}</label>`)}</fieldset>`;
}

// `done` asks for everything again, `turn` counts that: after the draft was put in force or dropped, links are others.
export function Draft({ name, since, tick, turn, say, done }) {
  const { data, error, isLoading } = useAnswer("draft", { namespace: name }, tick + turn);
  const { data: rights } = useAnswer("rights", { namespace: name }, tick);
  const denied = data?.denied.reduce((sum, each) => sum + each.connections, 0) ?? 0;
  const doubts = listDoubts(data);
  const verdict = denied || data?.evaluated_since ? ` would newly refuse or mark ${count(denied, "connection")}${doubts.length ? ", as far as is known" : ""}` : ": no verdict of it has come yet";
  const summary = data?.number ? `Draft ${data.number}${verdict}` : data ? "There is no draft" : "";
  useEffect(() => {
    if (summary && !isLoading && !turn) say(summary);
  }, [summary, isLoading]);
  if (error) return html`<${Fault} error=${error} />`;
  if (!data) return html`<p>Loading…</p>`;
  if (!data.number) return html`<p class="lead">${name} has no draft: what is shown are the rules in force. A draft is evaluated beside them and enforced by nobody. These write one:</p>
    <${Fix} say=${say} fix=${{ kind: "command", lines: data.write, copied: data.write }} />`;
  const shared = { about: `draft ${data.number} of ${name}`, done, say };
  return html`<section class="draft" aria-label=${`Draft of ${name}`}>
    <p class="lead">${data.evaluated_since && !data.denied.length ? html`<${Mark} word=${doubts.length || !data.evaluating ? "unknown" : "allow"} shown="Nothing would be newly refused" /> of what was seen since ${writeTime(data.evaluated_since)}.` : data.denied.length ? html`<${Mark} word="newly denied" shown=${`${count(denied, "connection")} would be newly refused or marked`} />` : html`<${Mark} word="unknown" shown="No verdict of it has come yet" />`}</p>
    <p class="summary">Draft ${data.number}, written ${writeTime(data.written)}: ${data.mode ? `mode ${data.mode}` : "the mode in force"}, ${count(data.rules, "rule")}. ${data.evaluating} of ${count(data.sidecars, "sidecar")} evaluate it${data.evaluated_since ? ` since ${writeTime(data.evaluated_since)}` : ""}; ${count(data.unchanged, "connection")} unchanged.</p>
    ${doubts.length ? html`<ul class="doubts">${doubts.map((each) => html`<li><${Mark} word="unknown" shown=${each} /></li>`)}</ul>` : null}
    <p class="buttons">
      ${rights?.switches && rights?.refuses ? html`<${Act} ...${shared} what="Put it in force" text=${IN_FORCE[data.mode]} command=${data.promote.line}
        accept=${data.is_outdated ? "The policy in force has changed since it was written. Take that back" : ""} request=${{ act: "promote", namespace: name, draft: data.number }} />` : null}
      ${rights?.refuses && !data.is_object ? html`<${Act} ...${shared} what="Drop it" text="The rules in force stay as they are. Its verdicts are forgotten." command=${data.drop.line} request=${{ act: "drop", namespace: name, draft: data.number }} />` : null}
    </p>
    ${data.is_object ? html`<p>It is what MeshPolicy ${name}/draft says: edit that object to change it. This drops it:</p>
      <${Fix} say=${say} fix=${{ kind: "command", lines: [data.drop.line], copied: [data.drop.line] }} />` : null}
    <${Changes} title="Newly refused or marked" changes=${data.denied} ...${{ name, since, say }} />
    <${Changes} title="Newly allowed" changes=${data.allowed} ...${{ name, since, say }} />
    <${Changes} title="Newly refused before, and allowed by now" changes=${data.settled} ...${{ name, since, say }} />
  </section>`;
}

// What isn't known of it, in words.
function listDoubts(data) {
  if (!data?.number) return [];
  return [
    data.evaluating < data.sidecars ? `not by ${data.waiting.join(", ")}${data.sidecars - data.evaluating > data.waiting.length ? ", …" : ""}: these haven't installed it, or are of an older release` : "",
    data.uncounted ? `${count(data.uncounted, "connection was", "connections were")} lost or had no room: nobody knows what it says of them` : "",
    data.is_partly_unknown ? "it asks for what sidecars look at only while it is in force: some connections have no verdict" : "",
    data.is_truncated ? "there is more than is shown" : "",
    data.is_outdated ? "the policy in force has changed since it was written: to put it in force takes that back" : "",
    ...data.notes,
  ].filter(Boolean);
}

function Changes({ title, changes, name, since, say }) {
  if (!changes.length) return null;
  return html`<h2>${title}</h2><ol class="causes">${changes.map((each) => html`<li>
    <p><${Mark} word=${each.change} />: ${each.before} → ${each.after} (${each.reason}${each.rule ? ` by ${each.rule}` : ""}), ${count(each.connections, "connection")}, last ${writeTime(each.last)}</p>
    <p>${end(each.source, each.source_program)} → ${end(each.destination, each.destination_program)}, port ${each.port}${each.service ? `, Service ${each.service}` : ""}
      ${" "}<a href=${makeLink(["ns", name, "edge"], { from: each.source, to: each.destination, port: String(each.port), since })}>see it<span class="unseen">: ${each.source} to ${each.destination}</span></a></p>
    ${each.fixes.map((fix) => html`<${Fix} fix=${fix} say=${say} />`)}
  </li>`)}</ol>`;
}

const end = (name, program) => `${name}${program ? ` (${program})` : ""}`;
