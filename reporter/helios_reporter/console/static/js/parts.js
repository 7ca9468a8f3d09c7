// Small parts that every view uses: severity, state, times, errors, skeletons, copyable commands.
import { useEffect, useState } from "preact/hooks";
import { html } from "./html.js";
import { ago, moment } from "./format.js";
import { link } from "./router.js";

const GLYPHS = {
  critical: html`<path d="M3.6 0h4.8L12 3.6v4.8L8.4 12H3.6L0 8.4V3.6z"/>`,
  high: html`<path d="M6 0.6 12 11.4H0z"/>`,
  medium: html`<path d="M6 0 12 6 6 12 0 6z"/>`,
  low: html`<path fill-rule="evenodd" d="M6 0.5a5.5 5.5 0 1 1 0 11a5.5 5.5 0 0 1 0-11zm0 2a3.5 3.5 0 1 0 0 7a3.5 3.5 0 0 0 0-7z"/>`,
};

/** Shape, word and colour: none of them alone. */
export function Severity({ level, badge = false }) {
  return html`<span class=${badge ? "severity badge" : "severity"} data-level=${level}>
    <svg viewBox="0 0 12 12" fill="currentColor" aria-hidden="true">${GLYPHS[level] ?? GLYPHS.low}</svg>${level}</span>`;
}

export const State = ({ state }) => html`<span class="state" data-state=${state}>${state}</span>`;

export function Time({ at, relative = false, ms = false }) {
  if (!at) return html`<span class="muted">–</span>`;
  return html`<time datetime=${at} title=${at}>${relative ? ago(at) : moment(at, { ms })}</time>`;
}

export const ServiceTag = ({ name }) => html`<a class="tag" href=${link("services", name)} title=${name}>${name}</a>`;

export function Failure({ error, retry, what }) {
  return html`<div class="notice" role="alert">
    <strong>${what} could not be loaded.</strong> <span>${error.message}</span>
    <span class="spacer"></span><button type="button" class="button" onClick=${retry}>Try again</button></div>`;
}

export function Skeleton({ rows = 8 }) {
  const widths = ["w70", "w50", "w90", "w30"];
  return html`<div class="panel" aria-busy="true"><span class="hidden-text">Loading</span>
    ${Array.from({ length: rows }, (_, i) => html`<div class="skeleton-row"><span class=${`skeleton ${widths[i % 4]}`}></span></div>`)}</div>`;
}

export function Command({ text }) {
  const [said, setSaid] = useState("Copy");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setSaid("Copied");
    } catch {
      setSaid("Select it and copy");
    }
    setTimeout(() => setSaid("Copy"), 2000);
  };
  return html`<div class="command"><code>${text}</code><button type="button" class="button" onClick=${copy}>${said}</button></div>`;
}

/** Renders again every so often, for what says how long ago something was. */
export function useTick(everyMs) {
  const [, setTurn] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => setTurn((n) => n + 1), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
}

export function useTitle(text) {
  useEffect(() => { document.title = text ? `${text} · Helios` : "Helios"; }, [text]);
}

/** A text with what a log says (between “ and ”) set apart; all of it text nodes. */
export function Said({ text }) {
  return text.split(/(“[^”]*”)/).map((part) => (part.startsWith("“") ? html`<q>${part.slice(1, -1)}</q>` : part));
}
