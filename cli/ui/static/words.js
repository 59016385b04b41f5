// How values are written, and the marks of verdicts: a shape and a word each, besides the colour.

import { html } from "./vendor/preact.js";

const MARKS = {
  allow: ["✓", "good"],
  ready: ["✓", "good"],
  "would deny": ["▲", "warn"],
  unknown: ["?", "warn"],
  deny: ["✕", "bad"],
  blocked: ["✕", "bad"],
  "newly denied": ["⊘", "bad"],
  "newly marked": ["△", "warn"],
  "newly allowed": ["+", "good"],
  "not seen since": ["?", "warn"],
  "allowed by now": ["✓", "good"],
};

export function Mark({ word, shown = word }) {
  const [shape, kind] = MARKS[word] ?? ["•", "plain"];
  return html`<span class=${`mark ${kind}`}><span class="shape" aria-hidden="true">${shape}</span> <span class="word">${shown}</span></span>`;
}

export function writeTime(seconds) {
  return seconds ? new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ") + "Z" : "never";
}

export function writeAge(seconds) {
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (Math.abs(seconds) >= size) return `${Math.round(seconds / size)} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}
