// The theme: system, light or dark, kept in the browser. Whoever draws on a canvas listens, for canvases inherit no CSS.
import { stored, keep } from "./stored.js";

const listeners = new Set();
const system = matchMedia("(prefers-color-scheme: dark)");
export const THEMES = ["system", "light", "dark"];

/** @returns {"system" | "light" | "dark"} what the person chose */
export function choice() {
  const found = stored("theme");
  return THEMES.includes(found) ? found : "system";
}

export function choose(theme) {
  keep("theme", theme);
  apply();
}

/** @param {() => void} listener @returns {() => void} to stop listening */
export function onTheme(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** @returns {string} the computed value of a CSS variable */
export function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function apply() {
  const wanted = choice();
  const theme = wanted === "system" ? (system.matches ? "dark" : "light") : wanted;
  if (document.documentElement.dataset.theme !== theme) document.documentElement.dataset.theme = theme;
  for (const listener of listeners) listener();
}

system.addEventListener("change", apply);
