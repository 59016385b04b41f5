// Where the page is, wholly in the URL's fragment: `#/ns/shop?since=24h&show=open`. A link carries the whole state.

import { useEffect, useState } from "./vendor/preact.js";
import { takeToken } from "./api.js";

export function readRoute() {
  takeToken();
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  let parts = [];
  try {
    parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  } catch {
    // A fragment that somebody typed.
  }
  return { parts, query: Object.fromEntries(new URLSearchParams(query)) };
}

export function makeLink(parts, query = {}) {
  const parameters = new URLSearchParams(Object.entries(query).filter(([, value]) => value)).toString();
  return `#/${parts.map(encodeURIComponent).join("/")}${parameters ? `?${parameters}` : ""}`;
}

// Changes some of the current view's parameters; an empty one is removed.
export function change(parameters) {
  const { parts, query } = readRoute();
  location.hash = makeLink(parts, { ...query, ...parameters });
}

export function useRoute() {
  const [route, setRoute] = useState(readRoute);
  useEffect(() => {
    const follow = () => {
      // The URL of another session, opened in this tab: what this one has shown goes.
      if (location.hash.startsWith("#token=")) {
        takeToken();
        location.reload();
        return;
      }
      setRoute(readRoute());
    };
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  return route;
}
