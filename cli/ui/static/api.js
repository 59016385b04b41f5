// Questions to the server of `touchmark ui`, and the session's token. Every answer is data: it becomes text, never markup.

import { useEffect, useState } from "./vendor/preact.js";

const KEPT_AS = "touchmark-session";
let token = sessionStorage.getItem(KEPT_AS) ?? "";

// The token comes in the URL's fragment, which is no part of a link to a view: it is taken out at once.
export function takeToken() {
  const found = /^#token=([\w-]+)$/.exec(location.hash);
  if (!found) return;
  token = found[1];
  sessionStorage.setItem(KEPT_AS, token);
  history.replaceState(null, "", "#/");
}

export async function ask(path, query = {}, signal = undefined) {
  const parameters = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== ""));
  let response;
  try {
    response = await fetch(`/api/${path}?${parameters}`, { headers: { "X-Touchmark-Session": token }, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw { message: "touchmark ui doesn't answer", hint: "is it still running in your terminal?" };
  }
  const answer = await response.json();
  if (!response.ok) throw answer;
  return answer;
}

// Makes a change that the user has confirmed. The token goes in a header of its own, which no other origin can add.
export async function act(request) {
  let response;
  try {
    response = await fetch("/api/act", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Touchmark-Session": token },
      body: JSON.stringify(request),
    });
  } catch {
    throw { message: "touchmark ui doesn't answer: it may have been done", hint: "refresh the page" };
  }
  const answer = await response.json();
  if (!response.ok) throw answer;
  return answer;
}

// Returns {data, error, isLoading}; asks again when the question or `tick` changes, and shows the old answer until then.
export function useAnswer(path, query, tick = 0) {
  const key = JSON.stringify([path, query]);
  const [state, setState] = useState({ key: "", data: null, error: null, isLoading: true });
  useEffect(() => {
    const aborter = new AbortController();
    setState((old) => ({ ...old, isLoading: true }));
    ask(path, query, aborter.signal).then(
      (data) => setState({ key, data, error: null, isLoading: false }),
      (error) => {
        if (error.name !== "AbortError") setState({ key, data: null, error, isLoading: false });
      },
    );
    return () => aborter.abort();
  }, [key, tick]);
  return state;
}
