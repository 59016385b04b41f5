// One namespace and its neighbours: the picture, and a table that says all that the picture says.

import { html, useEffect, useState } from "./vendor/preact.js";
import { useAnswer } from "./api.js";
import { change, makeLink } from "./route.js";
import { Check, Fault, Pages, paginate, Select, SINCE, Table } from "./pieces.js";
import { MAX_LABELLED, describeLink, Picture, ZOOMS } from "./picture.js";
import { count, Mark, writeTime } from "./words.js";
import { Draft, RulesSwitch } from "./draft.js";
import { Queue } from "./queue.js";
import { Coverage, Ready } from "./readiness.js";
import { Live, Timeline } from "./timeline.js";

const SHOW = [
  ["open", "what isn't settled"],
  ["denied", "refused"],
  ["would_deny", "what explicit mode would refuse"],
  ["all", "everything"],
];
const CHANGES = ["newly denied", "newly marked", "newly allowed", "not seen since"];
const VIEWS = [["", "Who talks to whom"], ["ready", "Is explicit mode safe?"], ["coverage", "How much was observed"], ["queue", "Programs to approve"], ["time", "By the hour"], ["live", "Live"]];
const OF_VIEW = { queue: Queue, ready: Ready, coverage: Coverage, time: Timeline, live: Live };

export function Namespace({ name, query, tick, start, say }) {
  const view = query.view ?? "";
  const since = query.since ?? "24h";
  const shared = { name, query, since, tick, start, say };
  return html`
    <nav class="views" aria-label=${`Views of ${name}`}>${VIEWS.map(([key, words]) => html`
      <a href=${makeLink(["ns", name], { ...query, view: key, page: "" })} aria-current=${key === view ? "page" : null}>${words}</a>`)}</nav>
    <${OF_VIEW[view] ?? Edges} ...${shared} />
  `;
}

export function linkToEdge(namespace, since, link) {
  return makeLink(["ns", namespace, "edge"], { from: link.source, to: link.destination, port: String(link.port), since });
}

function Edges({ name, query, since, tick, say }) {
  const show = query.show ?? "open";
  const node = query.node ?? "";
  const hubs = query.hubs ?? "";
  const rules = query.rules === "draft" ? "draft" : "";
  const [turn, setTurn] = useState(0);
  const zoom = ZOOMS.includes(query.zoom) ? query.zoom : "100";
  const { data, error, isLoading } = useAnswer("edges", { namespace: name, since, show, node, hubs, rules }, tick + turn);
  const refused = data?.links.filter((link) => link.verdict === "deny").length ?? 0;
  const summary = data ? `${count(data.links.length, "link")} shown, ${refused.toLocaleString("en")} refused${rules ? " under the draft" : ""}` : "";
  useEffect(() => {
    if (summary && !isLoading && !rules) say(summary);
  }, [summary, isLoading]);
  const { page, pages, shown } = paginate(data?.links ?? [], query);
  return html`
    <div class="controls">
      <${RulesSwitch} value=${rules} />
      <${Select} label="Seen in the" name="since" value=${since} options=${SINCE} />
      <${Select} label="Show" name="show" value=${show} options=${SHOW} />
      <${Select} label="Size" name="zoom" value=${zoom} options=${ZOOMS.map((each) => [each, `${each} %`])} />
      <${Check} label="Hide hubs in the picture" name="hubs" isOn=${hubs === "hide"} on="hide" />
      <${Check} label="Ask again every 10 s" name="live" isOn=${query.live === "1"} />
      ${node ? html`<button type="button" class="chip" onClick=${() => change({ node: "", page: "" })}>Only ${node} <span aria-hidden="true">✕</span><span class="unseen">: show all</span></button>` : null}
    </div>
    ${error ? html`<${Fault} error=${error} />` : null}
    ${data ? html`
      <p class="summary">${summary}${data.read < data.total ? `; made of ${data.read} of ${data.total} edges: shorten the time` : ""}${data.is_truncated ? "; there are more than are looked at" : ""}${data.hidden.length ? `; hubs not in the picture: ${data.hidden.join(", ")}` : ""}</p>
      ${data.undrawn ? html`<p class="hint">${data.undrawn}</p>` : null}
      ${data.drawn.length > MAX_LABELLED ? html`<p class="hint">So many links at once carry ✕ where they are refused, ◇ where they would be. Choose a box to see its own, with their ports.</p>` : null}
      ${data.nodes.length ? html`
        <${Legend} isDraft=${Boolean(rules)} />
        <${Picture} answer=${data} selected=${node} zoom=${zoom} open=${(link) => { location.hash = linkToEdge(name, since, link); }} select=${(to) => change({ node: to, page: "" })} />` : null}
      ${rules ? html`<${Draft} name=${name} since=${since} tick=${tick} turn=${turn} say=${say} done=${() => setTurn((old) => old + 1)} />` : null}
      <h2>Links</h2>
      <${Table} label=${`Links of ${name}`} empty=${show === "all" ? "Nothing was seen in this time, which isn't that nothing is." : "Nothing of this kind was seen in this time."}
        columns=${[...(rules ? ["By the draft", "Change"] : ["Verdict"]), "From", "To", "Port", "Why", "Connections", "Last seen"]}
        rows=${shown.map((link) => ({ key: `${link.source}\n${link.destination}\n${link.port}`, cells: describe(link, name, since, rules) }))} />
      <${Pages} page=${page} pages=${pages} total=${data.links.length} />` : error ? null : html`<p>Loading…</p>`}
  `;
}

function describe(link, namespace, since, rules) {
  const end = (name, programs) => html`<span class="name">${name}</span>${programs.length ? html`<span class="programs">${programs.join(", ")}</span>` : null}`;
  return [
    html`<a href=${linkToEdge(namespace, since, link)}><${Mark} word=${link.verdict} /><span class="unseen">: ${describeLink(link)}</span></a>`,
    ...(rules ? [link.change ? html`<${Mark} word=${link.change} /> <span class="programs">now ${link.before}</span>` : "none"] : []),
    end(link.source, link.source_programs),
    end(link.destination, link.destination_programs),
    html`${link.port}${link.services.length ? html`<span class="programs">${link.services.join(", ")}</span>` : null}`,
    `${link.reasons.join(", ")}${link.is_plaintext ? ", plaintext" : ""}`,
    link.counted,
    writeTime(link.last),
  ];
}

function Legend({ isDraft }) {
  const sample = (kind) => html`<svg width="44" height="14" aria-hidden="true"><g class=${`link ${kind}`}><path class="line" d="M2 7h40" /></g>${kind === "deny" ? html`<g class="label deny"><path class="cross" d="M17 2l10 10m0 -10l-10 10" /></g>` : null}</svg>`;
  return html`<p class="legend"><span>${sample("allow")} allow</span> <span>${sample("would-deny")} would deny</span> <span>${sample("deny")} deny</span> <span><span class="dashed" aria-hidden="true"></span> not proven</span>${isDraft ? CHANGES.map((word) => html` <span><${Mark} word=${word} /></span>`) : null}</p>`;
}
