// The picture of a namespace's edges: boxes at the server's places, a curve for each link. The table beside it says the
// same, so that links are no stops of the keyboard here; boxes are, one at a time, by arrow keys.

import { html, useMemo, useState } from "./vendor/preact.js";

const WIDTH = 180, HEIGHT = 36, GAP_X = 130, GAP_Y = 26, EDGE = 18, LOOP = 80;
export const MAX_LABELLED = 300;
const MAX_NAME = 25;
export const ZOOMS = ["50", "75", "100", "150"];

const corner = (node) => [EDGE + node.column * (WIDTH + GAP_X), EDGE + node.row * (HEIGHT + GAP_Y)];
const kind = (verdict) => verdict.replace(" ", "-");

// A link to the next column is one curve. A longer one runs between two rows, where no box is: behind a box it would seem
// to end there. `number` tells links of one pair apart, `lane` all that share a row's gap.
function curve(link, source, destination, number, lane) {
  let [x1, y1] = corner(source);
  let [x2, y2] = corner(destination);
  const shift = 3 * (number % 4);
  const way = source.column < destination.column ? 1 : -1;
  const bend = (way * GAP_X) / 2;
  if (source.column === destination.column) {
    const around = 44 + 8 * (number % 4);
    [x1, x2, y1, y2] = [x1 + WIDTH, x2 + WIDTH, y1 + 9, y2 + 26];
    return { path: `M${x1} ${y1}C${x1 + around} ${y1} ${x2 + around} ${y2} ${x2} ${y2}`, x: x1 + around * 0.75, y: (y1 + y2) / 2, tip: `M${x2} ${y2}l9 -4v8z` };
  }
  if (way > 0) [x1, y1, y2] = [x1 + WIDTH, y1 + 9 + shift, y2 + 9 + shift];
  else [x2, y1, y2] = [x2 + WIDTH, y1 + 24 + shift, y2 + 24 + shift];
  const tip = `M${x2} ${y2}l${-9 * way} -4v8z`;
  if (Math.abs(source.column - destination.column) === 1) {
    return { path: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`, x: x1 + bend, y: (y1 + y2) / 2, tip };
  }
  const row = destination.row < source.row ? source.row - 1 : source.row;
  const between = corner({ column: 0, row })[1] + HEIGHT + GAP_Y / 2 + 4 * ((lane % 5) - 2);
  const path = `M${x1} ${y1}C${x1 + bend} ${y1} ${x1 + bend} ${between} ${x1 + 2 * bend} ${between}`
    + `L${x2 - 2 * bend} ${between}C${x2 - bend} ${between} ${x2 - bend} ${y2} ${x2} ${y2}`;
  return { path, x: x1 + bend, y: (y1 + between) / 2, tip };
}

export function describeLink(link) {
  const services = link.services.length ? ` by ${link.services.join(", ")}` : "";
  const change = link.change ? `, ${link.change} (now ${link.before})` : "";
  return `${link.source} to ${link.destination}, port ${link.port}${services}: ${link.verdict}${change} (${link.reasons.join(", ")}), ${link.counted} connections`;
}

// What a draft changes has a shape of its own beside its word: a gap in the line, or a cross that stands upright.
const CHANGES = {
  "newly denied": ["broken", (x, y) => `M${x - 8} ${y + 8}l6 -16m4 16l6 -16`],
  "newly marked": ["broken", (x, y) => `M${x - 8} ${y + 8}l6 -16m4 16l6 -16`],
  "newly allowed": ["mended", (x, y) => `M${x - 7} ${y}h14m-7 -7v14`],
};

function drawShape({ change, verdict }, x, y) {
  if (CHANGES[change]) return html`<path class="cross" d=${CHANGES[change][1](x, y)} />`;
  return verdict === "deny" ? html`<path class="cross" d=${`M${x - 5} ${y - 5}l10 10m0 -10l-10 10`} />` : null;
}

function drawMark({ verdict }, x, y) {
  if (verdict === "deny") return html`<path class="mark" d=${`M${x - 4} ${y - 4}l8 8m0 -8l-8 8`} />`;
  return verdict === "would deny" ? html`<path class="mark" d=${`M${x - 4} ${y}l4 -4l4 4l-4 4z`} />` : null;
}

function writeLabel({ change, port, verdict }) {
  if (change) return `:${port} ${change}`;
  return `:${port}${verdict === "allow" ? "" : ` ${verdict}`}`;
}

// The nearest box in a direction: farther along the other axis counts double.
function findNext(nodes, from, key) {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (key === "Home") return nodes[0];
  if (key === "End") return nodes[nodes.length - 1];
  const [dx, dy] = steps[key] ?? [0, 0];
  if (!dx && !dy) return null;
  let best = null;
  for (const node of nodes) {
    const along = (node.column - from.column) * dx + (node.row - from.row) * dy;
    const across = Math.abs(dx ? node.row - from.row : node.column - from.column);
    if (along <= 0) continue;
    const distance = along + 2 * across;
    if (best === null || distance < best.distance) best = { node, distance };
  }
  return best?.node ?? null;
}

function drawLinks(links, drawn, byName, open) {
  const pairs = new Map();
  const shapes = drawn.map((index) => {
    const link = links[index];
    const pair = `${link.source}\n${link.destination}`;
    const number = pairs.get(pair) ?? 0;
    pairs.set(pair, number + 1);
    return { link, number, ...curve(link, byName.get(link.source), byName.get(link.destination), number, index) };
  });
  // A browser takes most of its time for dashes: where there are many links, a mark on the line says the verdict instead.
  const isCrowd = shapes.length > MAX_LABELLED;
  // The strictest come first, and are drawn last: on top.
  const lines = html`<g aria-hidden="true" class=${isCrowd ? "crowd" : ""}>${[...shapes].reverse().map(({ link, path, tip, x, y }) => html`<g class=${`link ${kind(link.verdict)} ${CHANGES[link.change]?.[0] ?? ""}`} onClick=${() => open(link)}>
    <title>${describeLink(link)}</title>${isCrowd ? null : html`<path class="hit" d=${path} />`}<path class="line" d=${path} /><path class="tip" d=${tip} />${isCrowd ? drawMark(link, x, y) : null}</g>`)}</g>`;
  const labels = html`<g aria-hidden="true" class="labels">${isCrowd ? null : shapes.map(({ link, number, x, y }) => html`<g class=${`label ${kind(link.verdict)}`}>
    ${drawShape(link, x, y)}
    <text x=${x} y=${y - (CHANGES[link.change] ? 11 : 7) + 12 * (number % 4)} text-anchor="middle">${writeLabel(link)}</text></g>`)}</g>`;
  return { lines, labels };
}

export function Picture({ answer, selected, zoom, open, select }) {
  const { nodes, links, drawn } = answer;
  const [current, setCurrent] = useState("");
  const byName = new Map(nodes.map((node) => [node.name, node]));
  const entry = byName.has(current) ? current : byName.has(selected) ? selected : nodes[0]?.name;
  const width = 2 * EDGE + LOOP + Math.max(...nodes.map((node) => node.column + 1)) * (WIDTH + GAP_X) - GAP_X;
  const height = 2 * EDGE + Math.max(...nodes.map((node) => node.row + 1)) * (HEIGHT + GAP_Y) - GAP_Y;
  // Made once for an answer: with thousands of links, comparing them again at each step of the focus would be felt.
  const { lines, labels } = useMemo(() => drawLinks(links, drawn, byName, open), [answer]);
  const move = (event, node) => {
    if (event.key === "Enter" || event.key === " ") select(node.name === selected ? "" : node.name);
    else if (event.key === "Escape" && selected) select("");
    else {
      const next = findNext(nodes, node, event.key);
      if (!next) return;
      setCurrent(next.name);
      const boxes = event.currentTarget.ownerSVGElement.querySelectorAll("[data-box]");
      boxes[nodes.indexOf(next)]?.focus();
    }
    event.preventDefault();
  };
  const scale = Number(zoom) / 100;
  return html`<div class="picture" role="region" aria-label="Picture of who talks to whom" tabindex="0">
    <svg width=${width * scale} height=${height * scale} viewBox=${`0 0 ${width} ${height}`} role="group" aria-label=${`${nodes.length} ends, ${drawn.length} links; arrow keys go from box to box`}>
      ${lines}
      ${nodes.map((node) => {
        const [x, y] = corner(node);
        const name = node.name.length > MAX_NAME ? `${node.name.slice(0, MAX_NAME - 1)}…` : node.name;
        return html`<g key=${node.name} data-box class=${`node ${node.is_ours ? "ours" : ""} ${node.is_proven ? "" : "unproven"}`} role="button"
          tabindex=${node.name === entry ? 0 : -1} aria-pressed=${node.name === selected ? "true" : "false"}
          aria-label=${`${node.name}${node.is_proven ? "" : ", not proven"}, ${node.neighbours} neighbours`}
          onClick=${() => select(node.name === selected ? "" : node.name)} onKeyDown=${(event) => move(event, node)} onFocus=${() => setCurrent(node.name)}>
          <title>${node.name}${node.is_proven ? "" : " (not proven)"}</title>
          <rect x=${x} y=${y} width=${WIDTH} height=${HEIGHT} rx="6" /><text x=${x + WIDTH / 2} y=${y + 22} text-anchor="middle">${name}</text></g>`;
      })}
      ${labels}
    </svg>
  </div>`;
}
