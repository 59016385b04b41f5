// All namespaces: mode, readiness, what explicit mode would refuse, how much was observed.

import { html, useEffect, useState } from "./vendor/preact.js";
import { ask, useAnswer } from "./api.js";
import { makeLink } from "./route.js";
import { Fault, Select, SINCE, Table } from "./pieces.js";
import { count, Mark } from "./words.js";

const AT_ONCE = 2;

// Readiness costs the CA work for each namespace: a few are asked at a time.
function useReadiness(names, since, tick) {
  const [found, setFound] = useState({});
  useEffect(() => {
    const aborter = new AbortController();
    const waiting = [...names];
    const work = async () => {
      for (let name = waiting.shift(); name !== undefined; name = waiting.shift()) {
        let answer;
        try {
          answer = await ask("readiness", { namespace: name, since }, aborter.signal);
        } catch (error) {
          if (error.name === "AbortError") return;
          answer = { error };
        }
        if (aborter.signal.aborted) return;
        const of = name;
        setFound((old) => ({ ...old, [of]: answer }));
      }
    };
    for (let number = 0; number < AT_ONCE; number++) work();
    return () => aborter.abort();
  }, [names.join(" "), since, tick]);
  return found;
}

export function Namespaces({ query, tick, say }) {
  const since = query.since ?? "24h";
  const { data, error } = useAnswer("namespaces", {}, tick);
  const names = (data?.namespaces ?? []).map((each) => each.name);
  const found = useReadiness(names, since, tick);
  const answered = names.filter((name) => found[name]?.readiness);
  const blocked = answered.filter((name) => found[name].readiness.verdict === "blocked").length;
  const summary = `${count(names.length, "namespace")}; ${blocked} blocked`;
  useEffect(() => {
    if (data && answered.length === names.length) say(summary);
  }, [summary, answered.length, names.length]);
  if (error) return html`<${Fault} error=${error} /><${Go} />`;
  return html`
    <p class="lead">May explicit mode be switched on, and what would it refuse?</p>
    <div class="controls"><${Select} label="Seen in the" name="since" value=${since} options=${SINCE} /></div>
    <${Table} label="Namespaces" empty=${data ? "No namespace has a sidecar or a policy." : "Loading…"}
      columns=${["Namespace", "Mode", "Explicit mode is", "It would refuse", "Observed", "Rules", "Programs"]}
      rows=${(data?.namespaces ?? []).map((row) => ({ key: row.name, cells: describe(row, found[row.name], since) }))} />
  `;
}

// Who may see one namespace only names it.
function Go() {
  const go = (event) => {
    event.preventDefault();
    const name = event.target.elements.namespace.value.trim();
    if (name) location.hash = makeLink(["ns", name]);
  };
  return html`<form class="controls" onSubmit=${go}>
    <label>Namespace <input name="namespace" autocomplete="off" /></label> <button type="submit">Open</button>
  </form>`;
}

function describe(row, answer, since) {
  const link = (view) => makeLink(["ns", row.name], { view, since });
  const name = html`<a href=${link("")}>${row.name}</a>`;
  if (!answer) return [name, row.mode, "…", "…", "…", row.rules, row.programs];
  if (answer.error) return [name, row.mode, html`<span class="hint">${answer.error.message}</span>`, "-", "-", row.rules, row.programs];
  const { readiness, causes } = answer;
  // How many connections isn't said: one may need several changes, and stands with each.
  const unknowns = readiness.unknowns.length ? `; ${count(readiness.unknowns.length, "thing")} unknown` : "";
  return [
    name,
    row.mode,
    html`<a href=${link("ready")}><${Mark} word=${readiness.verdict ?? "unknown"} /><span class="unseen"> (${row.name})</span></a>`,
    causes.length ? `connections that were seen: ${count(causes.length, "change is", "changes are")} missing` : "nothing that was seen",
    `${readiness.sidecars_reported} of ${count(readiness.sidecars_total, "sidecar")}${unknowns}`,
    row.rules,
    row.programs,
  ];
}
