// What a namespace's own sidecars decided: by the hour, as bars and as a table; and the newest decisions, followed live.

import { html, useEffect, useState } from "./vendor/preact.js";
import { useAnswer } from "./api.js";
import { makeLink } from "./route.js";
import { Fault, Pages, paginate, Select, SINCE, Table } from "./pieces.js";
import { Mark, writeTime } from "./words.js";

const HOUR_S = 3600, HEIGHT = 48, GAP = 22, LEFT = 4;
const ROWS = [["denied", "deny"], ["would_deny", "would deny"], ["allowed", "allow"]];

export function Timeline({ name, since, query, tick, say }) {
  const { data, error, isLoading } = useAnswer("timeline", { namespace: name, since }, tick);
  const sum = (key) => (data?.hours ?? []).reduce((total, hour) => total + hour[key], 0).toLocaleString("en");
  const summary = data ? `Connections: ${sum("denied")} denied, ${sum("would_deny")} that explicit mode would deny, ${sum("allowed")} allowed` : "";
  useEffect(() => {
    if (summary && !isLoading) say(summary);
  }, [summary, isLoading]);
  const controls = html`<div class="controls"><${Select} label="Seen in the" name="since" value=${since} options=${SINCE} /></div>`;
  if (error) return html`${controls}<${Fault} error=${error} />`;
  if (!data) return html`${controls}<p>Loading…</p>`;
  const { page, pages, shown } = paginate([...data.hours].reverse(), query);
  return html`${controls}
    <p class="lead">What this namespace's own sidecars decided, by the hour. Where there is no bar and no mark, none of them reported, or the CA no longer keeps it.</p>
    <p class="summary">${summary}</p>
    ${data.hours.length ? html`<${Bars} hours=${data.hours} since=${data.since} now=${data.now} />` : null}
    <${Table} label=${`Decisions of ${name} by the hour`} empty="No sidecar of this namespace reported in this time: nothing is known of it."
      columns=${["Hour", "Denied", "Would deny", "Allowed", "Sidecars that reported", "Records lost"]}
      rows=${shown.map((hour) => ({ key: String(hour.start), cells: [writeTime(hour.start), hour.denied, hour.would_deny, hour.allowed, hour.sidecars, hour.lost ? html`<${Mark} word="unknown" shown=${String(hour.lost)} /> at least as many connections as shown` : 0] }))} />
    <${Pages} page=${page} pages=${pages} total=${data.hours.length} />`;
}

// Each verdict has a scale of its own: a few refusals would be invisible beside thousands of allowed connections.
function Bars({ hours, since, now }) {
  const first = Math.min(Math.floor(since / HOUR_S), hours[0].start / HOUR_S);
  const total = Math.max(1, Math.floor(now / HOUR_S) - first + 1);
  const step = Math.max(4, Math.min(36, Math.floor(900 / total)));
  const width = 2 * LEFT + total * step;
  const bars = ROWS.map(([key, word], row) => {
    const base = (row + 1) * (HEIGHT + GAP);
    const most = Math.max(1, ...hours.map((hour) => hour[key]));
    return html`<g class=${`bars ${word.replace(" ", "-")}`}>
      <text x=${LEFT} y=${base - HEIGHT - 6}>${word}: ${most === 1 && !hours.some((hour) => hour[key]) ? "none" : `${most.toLocaleString("en")} at most in an hour`}</text>
      <path class="base" d=${`M${LEFT} ${base}h${total * step}`} />
      ${hours.map((hour) => {
        const height = hour[key] ? Math.max(2, Math.round((hour[key] / most) * HEIGHT)) : 0;
        const x = LEFT + (hour.start / HOUR_S - first) * step;
        return html`<g key=${hour.start}><title>${writeTime(hour.start)}: ${hour[key]} ${word}${hour.lost ? ", records were lost" : ""}</title>
          <rect class="tick" x=${x} y=${base} width=${step - 1} height="3" />
          ${height ? html`<rect class="bar" x=${x} y=${base - height} width=${step - 1} height=${height} />` : null}</g>`;
      })}
    </g>`;
  });
  return html`<div class="picture" role="region" aria-label="Decisions by the hour" tabindex="0">
    <svg width=${width} height=${ROWS.length * (HEIGHT + GAP) + 8} role="img" aria-label="Bars by the hour; the table says the same">${bars}</svg></div>`;
}

const LIVE_MS = 3000;
const SHOW = [["all", "everything"], ["denied", "refused"], ["would_deny", "what explicit mode would refuse"]];

export function Live({ name, query, tick, say }) {
  const [turn, setTurn] = useState(0);
  const [isPaused, pause] = useState(false);
  const show = query.only ?? "all";
  const { data, error } = useAnswer("decisions", { namespace: name, show }, tick + turn);
  useEffect(() => {
    if (isPaused) return undefined;
    // One question at a time: the next is asked some time after the answer.
    const timer = setTimeout(() => setTurn((old) => old + 1), LIVE_MS);
    return () => clearTimeout(timer);
  }, [isPaused, data, error]);
  const toggle = () => {
    pause(!isPaused);
    say(isPaused ? "Following" : "Paused");
  };
  return html`
    <p class="lead">The newest decisions of this namespace's sidecars, asked for again and again.</p>
    <div class="controls"><${Select} label="Show" name="only" value=${show} options=${SHOW} />
      <button type="button" aria-pressed=${isPaused ? "true" : "false"} onClick=${toggle}>Pause</button></div>
    ${error ? html`<${Fault} error=${error} />` : null}
    ${data ? html`<${Table} label=${`Newest decisions of ${name}`} empty="No decision is kept that matches."
      columns=${["Time", "Verdict", "Reason", "Source", "Destination", "Port", "Rule", "By", "Connections"]}
      rows=${data.decisions.map((each) => ({ key: String(each.id), cells: [
        writeTime(each.time), html`<${Mark} word=${each.verdict} />`, each.reason,
        html`<span class="name">${each.source}</span>${each.source_path ? html`<span class="programs">${each.source_path}</span>` : null}`,
        html`<a href=${makeLink(["ns", name, "edge"], { from: each.source, to: each.destination, port: String(each.port) })}>${each.destination}</a>${each.service ? html`<span class="programs">${each.service}</span>` : null}`,
        each.port, each.rule || "none", each.side === "egress" ? "source's sidecar" : "destination's sidecar", each.count,
      ] }))} />` : error ? null : html`<p>Loading…</p>`}`;
}
