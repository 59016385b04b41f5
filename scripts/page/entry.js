// All that the page uses of other people's code, as one module.
import { h } from "preact";
import htm from "htm";

export { render } from "preact";
export { useEffect, useMemo, useRef, useState } from "preact/hooks";
export const html = htm.bind(h);
