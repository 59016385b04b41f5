// The mesh itself: sidecars and their versions, the CA's authorities and rotation, the audit log's newest acts.

import { html } from "./vendor/preact.js";
import { useAnswer } from "./api.js";
import { Fault, Pages, paginate, Table } from "./pieces.js";
import { count, Mark, writeTime } from "./words.js";

function useTable(path, tick) {
  const { data, error } = useAnswer(path, {}, tick);
  return { data, instead: error ? html`<${Fault} error=${error} />` : data ? null : html`<p>Loading…</p>` };
}

export function Sidecars({ query, tick }) {
  const { data, instead } = useTable("sidecars", tick);
  if (instead) return instead;
  const live = data.sidecars.filter((each) => each.live);
  const versions = new Map();
  for (const each of live) versions.set(each.version, (versions.get(each.version) ?? 0) + 1);
  const { page, pages, shown } = paginate(data.sidecars, query);
  return html`
    <p class="lead">${count(live.length, "live sidecar")}: ${[...versions].map(([version, number]) => `${number} of version ${version}`).join(", ") || "none"}.</p>
    <${Table} label="Sidecars" empty="No sidecar has joined." columns=${["Sidecar", "Workload", "State", "Version", "Clock", "Last seen"]}
      rows=${shown.map((each) => ({ key: each.instance, cells: [
        each.instance, each.workload, state(each), each.version,
        each.clock_offset_s === null ? "-" : `${each.clock_offset_s > 0 ? "+" : ""}${Math.round(each.clock_offset_s)} s`, writeTime(each.last_seen),
      ] }))} />
    <${Pages} page=${page} pages=${pages} total=${data.sidecars.length} />`;
}

function state(sidecar) {
  if (sidecar.evicted) return html`<${Mark} word="deny" shown="evicted" />`;
  if (sidecar.connected) return html`<${Mark} word="allow" shown="connected" />`;
  return sidecar.live ? html`<${Mark} word="unknown" shown="silent" />` : "ended";
}

export function Authorities({ tick }) {
  const { data, instead } = useTable("ca", tick);
  if (instead) return instead;
  const { rotation } = data;
  return html`
    <p class="lead">${count(data.certificates_alive, "certificate is", "certificates are")} alive, of ${count(data.sidecars_connected, "connected sidecar")}; each lives for ${Math.round(data.leaf_lifetime_s / 60)} min.</p>
    <${Table} label="Authorities" empty="There is none." columns=${["Authority", "Kind", "Phase", "From", "To", "Certificates"]}
      rows=${data.authorities.map((each) => ({ key: each.authority_id, cells: [each.subject, each.kind, each.phase, writeTime(each.not_before), writeTime(each.not_after), each.certificates_alive] }))} />
    <h2>Rotation</h2>
    ${rotation.step === "none" ? html`<p>There has never been one.</p>` : html`<dl class="reasons">
      <dt>${rotation.kind}</dt><dd>${rotation.step}${rotation.is_finished ? ", finished" : ", in progress"}; begun ${writeTime(rotation.started)}</dd>
      ${rotation.next ? html`<dt>next</dt><dd>${rotation.next}</dd>` : null}
      ${rotation.previous ? html`<dt>previous</dt><dd>${rotation.previous}, ${count(rotation.previous_alive, "certificate")} alive</dd>` : null}
      ${rotation.waiting_for.length ? html`<dt>waits for</dt><dd><ul>${rotation.waiting_for.map((each) => html`<li>${each}</li>`)}</ul></dd>` : null}
      ${rotation.unpublished.length ? html`<dt>not published in</dt><dd>${rotation.unpublished.join(", ")}</dd>` : null}
    </dl>`}`;
}

export function Audit({ query, tick }) {
  const { data, instead } = useTable("audit", tick);
  if (instead) return instead;
  const { page, pages, shown } = paginate(data.acts, query);
  return html`
    <p class="lead">The newest administrative acts. <code>touchmark audit list</code> has before and after, <code>touchmark audit verify</code> checks the chain.</p>
    <${Table} label="Administrative acts" empty="No administrative act." columns=${["Number", "Time", "Act", "Subject", "By"]}
      rows=${shown.map((each) => ({ key: String(each.sequence), cells: [each.sequence, writeTime(each.time), each.act, each.subject, each.actor] }))} />
    <${Pages} page=${page} pages=${pages} total=${data.acts.length} />`;
}
