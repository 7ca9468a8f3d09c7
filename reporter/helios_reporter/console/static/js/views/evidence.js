// Evidence: the chips behind a claim, the card that a chip opens, and the table of all.
import { createPortal } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { html } from "../html.js";
import { interval, moment } from "../format.js";

const WORDS = { detector: "detector", metric: "metric", log_template: "log pattern", log_sample: "log line", neighbour: "other service" };
const isLog = (item) => item.kind.startsWith("log_");
const when = (item) => (item.from === item.to ? moment(item.from) : interval(item.from, item.to));
const named = (item) => (isLog(item) ? item.name : item.name.replaceAll("_", " "));

function Card({ item, anchor, id }) {
  const box = useRef(null);
  useLayoutEffect(() => {
    const at = anchor.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = box.current;
    const fitsBelow = at.bottom + height + 12 < innerHeight || at.top < height;
    // Through the CSSOM: the policy allows no style attributes.
    box.current.style.left = `${Math.max(Math.min(at.left, innerWidth - width - 12), 12) + scrollX}px`;
    box.current.style.top = `${(fitsBelow ? at.bottom + 6 : at.top - height - 6) + scrollY}px`;
  }, [anchor, item]);
  return createPortal(html`<div class="card" role="tooltip" id=${id} ref=${box}>
    <p class="muted">${item.id} · ${WORDS[item.kind] ?? item.kind} · ${item.service}</p>
    <p class=${isLog(item) ? "what log" : "what"}>${named(item)}</p>
    <dl>${item.value_text ? html`<dt>during</dt><dd class="value">${item.value_text}</dd>` : null}
      ${item.baseline_text ? html`<dt>${item.kind === "detector" ? "normally" : "before"}</dt><dd>${item.baseline_text}</dd>` : null}
      <dt>interval</dt><dd>${when(item)}</dd><dt>source</dt><dd>${item.source}</dd></dl></div>`, document.body);
}

function Chip({ item }) {
  const [isNear, setNear] = useState(false);
  const [isPinned, setPinned] = useState(false);
  const button = useRef(null);
  const isOpen = isNear || isPinned;
  const open = useRef(false); // at once, while effects and renders come later
  open.current = isOpen;
  useEffect(() => {
    if (!isOpen) return undefined;
    const close = () => { open.current = false; setNear(false); setPinned(false); };
    const key = (event) => { if (event.key === "Escape" && open.current) { close(); event.stopPropagation(); } };
    const press = (event) => { if (!button.current?.contains(event.target) && !event.target.closest?.(".card")) close(); };
    addEventListener("keydown", key, true);
    addEventListener("pointerdown", press);
    return () => { removeEventListener("keydown", key, true); removeEventListener("pointerdown", press); };
  }, [isOpen]);
  const id = `card-${item.id}`;
  return html`<button type="button" class="chip" ref=${button} aria-expanded=${isOpen} aria-describedby=${isOpen ? id : undefined} aria-label=${`Evidence ${item.id}`}
    onMouseEnter=${() => setNear(true)} onMouseLeave=${() => setNear(false)} onFocus=${() => setNear(true)} onBlur=${() => setNear(false)}
    onClick=${() => setPinned((on) => !on)}>${item.id}</button>${isOpen ? html`<${Card} item=${item} anchor=${button.current} id=${id} />` : null}`;
}

/** @param {{ids: string[], evidence: Map<string, object>}} props */
export function Chips({ ids, evidence }) {
  return (ids ?? []).map((id) => (evidence.has(id) ? html`<${Chip} key=${id} item=${evidence.get(id)} />` : html`<span class="muted"> ${id}</span>`));
}

export function EvidenceTable({ items }) {
  return html`<table role="table" class="list cards evidence" aria-label="Evidence"><thead role="rowgroup"><tr role="row">${["Id", "Kind", "Service", "What", "During", "Before", "Interval", "Source"].map((word) => html`<th role="columnheader" scope="col">${word}</th>`)}</tr></thead>
    <tbody role="rowgroup">${items.map((item) => html`<tr role="row" key=${item.id} class=${item.notable === false ? "is-normal" : ""}>
      <td role="cell" class="mono">${item.id}</td><td role="cell">${WORDS[item.kind] ?? item.kind}</td><td role="cell">${item.service}</td>
      <td role="cell" class=${isLog(item) ? "what mono" : "what"}>${named(item)}</td><td role="cell" data-label="during">${item.value_text ?? "–"}</td><td role="cell" data-label="before">${item.baseline_text ?? "–"}</td>
      <td role="cell" class="time">${when(item)}</td><td role="cell" class="muted">${item.source}</td></tr>`)}</tbody></table>`;
}
