// Pieces that several views share: tables, pages of rows, commands to copy, faults.

import { html, useRef } from "./vendor/preact.js";
import { change } from "./route.js";

export const ROWS_A_PAGE = 100;

// The roles stand there in words: on narrow screens the style sheet lays cells out as blocks, which would take them away.
export function Table({ label, columns, rows, empty }) {
  if (!rows.length) return html`<p class="empty">${empty}</p>`;
  return html`<table role="table" aria-label=${label}>
    <thead role="rowgroup"><tr role="row">${columns.map((name) => html`<th role="columnheader" scope="col">${name}</th>`)}</tr></thead>
    <tbody role="rowgroup">${rows.map(({ key, cells }) => html`<tr role="row" key=${key}>${cells.map((cell, index) =>
      html`<td role="cell"><span class="heading" aria-hidden="true">${columns[index]}</span><span class="value">${cell}</span></td>`)}</tr>`)}</tbody>
  </table>`;
}

// A part of many rows, and how to get to the others. The place is in the URL.
export function paginate(rows, query) {
  const pages = Math.max(1, Math.ceil(rows.length / ROWS_A_PAGE));
  const page = Math.min(pages, Math.max(1, Number.parseInt(query.page ?? "1", 10) || 1));
  return { page, pages, shown: rows.slice((page - 1) * ROWS_A_PAGE, page * ROWS_A_PAGE) };
}

export function Pages({ page, pages, total }) {
  if (pages === 1) return null;
  const go = (to) => () => change({ page: String(to) });
  return html`<p class="pages" role="group" aria-label="Pages of the table">
    <button type="button" disabled=${page === 1} onClick=${go(page - 1)}>Previous</button>
    <span>Page ${page} of ${pages} (${total} rows)</span>
    <button type="button" disabled=${page === pages} onClick=${go(page + 1)}>Next</button>
  </p>`;
}

export function Fault({ error }) {
  return html`<div class="fault" role="alert"><p>${inCode(error.message ?? String(error))}</p>${error.hint ? html`<p class="hint">${inCode(error.hint)}</p>` : null}</div>`;
}

// Advice as the command prints it: what stands between backticks is typed.
export function inCode(text) {
  return text.split("`").map((part, index) => (index % 2 ? html`<code>${part}</code>` : part));
}

// What fixes a refusal: as the commands print it, and a button that copies what is to be pasted.
export function Fix({ fix, say }) {
  const shown = useRef(null);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(fix.copied.join("\n"));
      say("Copied");
    } catch {
      getSelection().selectAllChildren(shown.current);
      say("The browser doesn't let pages copy: the text is selected");
    }
  };
  if (fix.kind === "advice") return html`<p class="advice">${inCode(fix.lines.join(" "))}</p>`;
  return html`<div class="fix">
    ${fix.kind === "rule" ? html`<p class="hint">${inCode(fix.lines[0])}</p>` : null}
    <pre ref=${shown} tabindex="0" role="group" aria-label=${fix.kind === "rule" ? "Rule to add" : "Command to run"}>${(fix.kind === "rule" ? fix.copied : fix.lines).join("\n")}</pre>
    <button type="button" onClick=${copy}>Copy</button>
  </div>`;
}

export function Select({ label, name, value, options }) {
  return html`<label>${label} <select name=${name} value=${value} onChange=${(event) => change({ [name]: event.target.value, page: "" })}>
    ${options.map(([key, words]) => html`<option value=${key} selected=${key === value}>${words}</option>`)}
  </select></label>`;
}

export function Check({ label, name, isOn, on = "1" }) {
  return html`<label class="check"><input type="checkbox" name=${name} checked=${isOn} onChange=${(event) => change({ [name]: event.target.checked ? on : "", page: "" })} /> ${label}</label>`;
}

export const SINCE = [["1h", "last hour"], ["24h", "last 24 hours"], ["7d", "last 7 days"], ["30d", "last 30 days"]];
