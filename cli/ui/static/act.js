// A change: its button, and the dialog that shows the same command before it is done. The keyboard stays in the dialog.

import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { act } from "./api.js";
import { Fault } from "./pieces.js";

// `what` is the button's word, `about` what a screen reader hears besides; `accept` a sentence that must be ticked;
// `loaded` what is approved with a program.
export function Act({ what, about, text, command, accept = "", loaded = [], note = "", request, done, say }) {
  const [isOpen, open] = useState(false);
  return html`<button type="button" onClick=${() => open(true)}>${what}…<span class="unseen">: ${about}</span></button>
    ${isOpen ? html`<${Confirm} what=${what} about=${about} text=${text} command=${command} accept=${accept} loaded=${loaded} note=${note} request=${request} say=${say}
      close=${(isDone) => { open(false); if (isDone) done(); }} />` : null}`;
}

function Confirm({ what, about, text, command, accept, loaded, note, request, close, say }) {
  const dialog = useRef(null);
  const [accepted, setAccepted] = useState(false);
  const [isRunning, setRunning] = useState(false);
  const [error, setError] = useState(null);
  useEffect(() => {
    const opener = document.activeElement;
    dialog.current.showModal();
    return () => opener?.focus();
  }, []);
  const confirm = async () => {
    setRunning(true);
    setError(null);
    try {
      const answer = await act({ ...request, accepts: accepted });
      say(answer.text);
      close(true);
    } catch (failure) {
      setError(failure);
      setRunning(false);
    }
  };
  return html`<dialog ref=${dialog} aria-labelledby="act-title" onCancel=${(event) => { event.preventDefault(); if (!isRunning) close(false); }}>
    <h2 id="act-title">${what}: ${about}</h2>
    <p>${text}</p>
    <p class="hint">The same as</p>
    <pre tabindex="0" role="group" aria-label="Command">${command}</pre>
    ${loaded.length || note ? html`<p class="hint">Approved with it, since it had loaded this${note ? ` (${note})` : ""}</p>
      <pre class="loaded" tabindex="0" role="group" aria-label="Loaded code">${loaded.join("\n")}</pre>` : null}
    ${accept ? html`<label class="check"><input type="checkbox" checked=${accepted} onChange=${(event) => setAccepted(event.target.checked)} /> ${accept}</label>` : null}
    ${error ? html`<${Fault} error=${error} />` : null}
    <p class="buttons"><button type="button" disabled=${isRunning || Boolean(accept && !accepted)} onClick=${confirm}>${what}</button>
      <button type="button" disabled=${isRunning} onClick=${() => close(false)}>Cancel</button></p>
  </dialog>`;
}
