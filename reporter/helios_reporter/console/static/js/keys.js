// Keyboard: single keys and "g x" sequences, on keydown, never while one types. They can be switched off (WCAG 2.1.4).
import { useEffect } from "preact/hooks";
import { stored, keep } from "./stored.js";

const SEQUENCE_MS = 1200;
const layers = [];
let prefix = "";
let prefixUntil = 0;

export const KEYS = [
  ["g i", "incidents"], ["g s", "services"], ["g l", "live stream"], ["j / k", "next / previous row"],
  ["Enter", "open the row"], ["/", "filter"], [".", "pause or resume the stream"], ["t", "change the theme"],
  ["Esc", "close, or leave the filter"], ["?", "this help"],
];
export const areOn = () => stored("keys") !== "off";
export const switchKeys = (on) => keep("keys", on ? "on" : "off");

/** @param {Record<string, () => void>} bindings by key, or `g x`; the latest layer wins */
export function useKeys(bindings, inputs) {
  useEffect(() => {
    layers.push(bindings);
    return () => { layers.splice(layers.indexOf(bindings), 1); };
  }, inputs);
}

/** Moves the focus among the elements that match: the rows of a list. */
export function step(selector, by) {
  const all = [...document.querySelectorAll(selector)];
  if (!all.length) return;
  const at = all.indexOf(document.activeElement);
  const next = at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(Math.max(at + by, 0), all.length - 1);
  all[next].focus();
  all[next].scrollIntoView({ block: "nearest" });
}

function isTyping(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (isTyping(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (document.querySelector("dialog[open]") || (!areOn() && event.key !== "Escape")) return;
  let name = event.key;
  if (prefix && Date.now() < prefixUntil) name = `${prefix} ${name}`;
  prefix = "";
  if (name === "g") {
    prefix = "g";
    prefixUntil = Date.now() + SEQUENCE_MS;
    return;
  }
  const layer = layers.findLast((bindings) => name in bindings);
  if (layer) {
    event.preventDefault();
    layer[name]();
  }
});
