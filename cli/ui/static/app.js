// The page of `touchmark ui`: which view is shown, the frame around it, and what a screen reader is told.

import { html, render, useEffect, useRef, useState } from "./vendor/preact.js";
import { useAnswer } from "./api.js";
import { Edge } from "./edge.js";
import { Audit, Authorities, Sidecars } from "./mesh.js";
import { Namespace } from "./namespace.js";
import { Namespaces } from "./namespaces.js";
import { Fault } from "./pieces.js";
import { makeLink, useRoute } from "./route.js";

const LIVE_S = 10;
const PLACES = [["", "Namespaces"], ["sidecars", "Sidecars"], ["ca", "Authorities"], ["audit", "Audit"]];

function choose([place = "", name = "", part = ""], query) {
  if (place === "ns" && name && part === "edge") return { title: `${query.from ?? ""} → ${query.to ?? ""}, port ${query.port ?? ""}`, View: Edge, name };
  if (place === "ns" && name) return { title: name, View: Namespace, name };
  if (place === "sidecars") return { title: "Sidecars", View: Sidecars };
  if (place === "ca") return { title: "Authorities", View: Authorities };
  if (place === "audit") return { title: "Audit", View: Audit };
  return { title: "Namespaces", View: Namespaces };
}

function App() {
  const { parts, query } = useRoute();
  const [tick, setTick] = useState(0);
  const [said, say] = useState("");
  const heading = useRef(null);
  const { data: start, error } = useAnswer("start", {}, tick);
  const { title, View, name } = choose(parts, query);
  const place = parts[0] === "ns" ? "" : parts[0] ?? "";
  const isLive = query.live === "1";
  useEffect(() => {
    if (!isLive) return undefined;
    const timer = setInterval(() => setTick((old) => old + 1), LIVE_S * 1000);
    return () => clearInterval(timer);
  }, [isLive]);
  const isFirst = useRef(true);
  useEffect(() => {
    document.title = `${title} · Touchmark`;
    // A new view begins at its heading, for the keyboard and for screen readers.
    if (!isFirst.current) heading.current?.focus();
    isFirst.current = false;
  }, [title, View]);
  const skip = (event) => {
    event.preventDefault();
    heading.current?.focus();
  };
  return html`
    <a class="skip" href="#content" onClick=${skip}>Skip to the content</a>
    <header>
      <p class="brand">Touchmark${start ? html` <span class="where">${start.trust_domain ? `${start.trust_domain}, ` : ""}${start.target}</span>` : null}</p>
      <nav aria-label="Places">${PLACES.map(([key, words]) => html`<a href=${makeLink(key ? [key] : [])} aria-current=${key === place ? "page" : null}>${words}</a>`)}</nav>
      <button type="button" onClick=${() => setTick((old) => old + 1)}>Refresh</button>
    </header>
    <main id="content">
      <h1 ref=${heading} tabindex="-1">${title}</h1>
      ${error ? html`<${Fault} error=${error} />` : html`<${View} key=${`${parts.join("/")}`} name=${name} query=${query} tick=${tick} start=${start} say=${say} />`}
    </main>
    <p class="unseen" role="status" aria-live="polite">${said}</p>
  `;
}

render(html`<${App} />`, document.getElementById("page"));
