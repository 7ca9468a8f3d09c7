// The live stream: what comes, as it comes. Held while one reads, so that nothing moves under the eye.
import { Component } from "preact";
import { useRef, useState } from "preact/hooks";
import { html } from "../html.js";
import { clock, count, day, latency, plural, share } from "../format.js";
import { useKeys } from "../keys.js";
import { useLive } from "../live.js";
import { ServiceTag, Severity, useTitle } from "../parts.js";
import { link, setParams } from "../router.js";

const KINDS = [["alert", "Alerts"], ["incident", "Incidents"], ["windows", "Windows"], ["event", "Events"]];

const serviceOf = (row) => row.window?.service ?? row.service ?? row.incident?.services?.[0] ?? "";

function text(row) {
  if (row.type === "windows") {
    const { events, errors, p95_ms: p95, hosts, duration_s: seconds } = row.window;
    return `${plural(events, "event")} in ${seconds} s, ${plural(errors, "error")}${events ? ` (${share(errors / events)})` : ""}${p95 === null ? "" : `, p95 ${latency(p95)}`}, ${plural(hosts, "host")}`;
  }
  if (row.type === "alert") return `${row.family} ${row.state}: ${row.text || row.detectors.join(", ") || "normal again"}`;
  if (row.type === "incident") return `${row.incident.state}: ${row.incident.title}`;
  return row.text;
}

const searched = (row) => `${row.type} ${serviceOf(row)} ${row.level ?? ""} ${row.severity ?? ""} ${row.host ?? ""} ${text(row)}`.toLowerCase();

/** A row is drawn once: what came does not change. */
class Row extends Component {
  shouldComponentUpdate() { return false; }

  render({ row }) {
    const at = new Date(row.window?.start ?? row.at);
    const isToday = at.toDateString() === new Date().toDateString();
    return html`<tr role="row"><td role="cell" class="at"><time datetime=${row.at} title=${row.at}>${isToday ? "" : `${day(at)} `}${clock(at, { ms: isToday })}</time></td>
      <td role="cell"><span class="kind" data-kind=${row.type}>${row.type === "windows" ? "window" : row.type}</span></td>
      <td role="cell">${serviceOf(row) ? html`<${ServiceTag} name=${serviceOf(row)} />` : null}</td>
      <td role="cell" class="said">${row.severity ? html`<${Severity} level=${row.severity} /> ` : null}${row.type === "incident" ? html`<${Severity} level=${row.incident.severity} /> <a href=${link("incidents", row.incident.id)}>${text(row)}</a>`
    : html`${row.level ? html`<span class=${`level-${row.level}`}>${row.level} </span>` : null}${text(row)}`}</td>
      <td role="cell" class="muted">${[row.source, row.host].filter(Boolean).join(" · ")}</td></tr>`;
  }
}

export function Live({ params }) {
  const stream = useLive();
  const query = params.get("q") ?? "";
  const hidden = (params.get("hide") ?? "").split(",").filter(Boolean);
  const [paused, setPaused] = useState(null); // the rows that stay, while it is paused
  const input = useRef(null);
  const isOver = useRef(false);
  const held = useRef(null);
  const toggle = () => setPaused((old) => (old ? null : stream.rows));
  useTitle("Live");
  useKeys({ ".": toggle, "/": () => input.current?.focus(), Escape: () => setParams({ q: "" }) }, []);
  const isHeld = !paused && (isOver.current || scrollY > 120);
  if (!isHeld) held.current = null;
  else held.current ??= stream.rows;
  const all = paused ?? held.current ?? stream.rows;
  const newer = all[0] ? stream.rows.findIndex((row) => row.key === all[0].key) : stream.rows.length;
  const behind = newer < 0 ? stream.rows.length : newer;
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = all.filter((row) => !hidden.includes(row.type) && (!words.length || words.every((word) => searched(row).includes(word))));
  const flip = (kind) => setParams({ hide: (hidden.includes(kind) ? hidden.filter((k) => k !== kind) : [...hidden, kind]).join(",") });
  const release = () => { held.current = null; isOver.current = false; if (paused) setPaused(null); scrollTo(0, 0); };
  return html`<div class="bar"><h1>Live</h1>
    <button type="button" class="button" aria-pressed=${Boolean(paused)} onClick=${toggle}>${paused ? "Resume" : "Pause"}</button>
    <div class="segments" role="group" aria-label="Kinds">${KINDS.map(([kind, word]) => html`<button type="button" class="button" aria-pressed=${!hidden.includes(kind)} onClick=${() => flip(kind)}>${word}</button>`)}</div>
    <input ref=${input} class="input" type="search" placeholder="Filter by text, service, level" aria-label="Filter the stream" value=${query} onInput=${(event) => setParams({ q: event.target.value })} />
    <span class="spacer"></span><span class="muted">${count(rows.length)} of ${plural(all.length, "row")} kept${stream.dropped ? html`; <strong>${plural(stream.dropped, "message")} dropped</strong>, this browser was too slow` : null}</span></div>
  ${behind && (paused || isHeld) ? html`<div class="pill-row"><button type="button" class="pill" onClick=${release}>${behind} new</button></div>` : null}
  <div class="panel stream" onPointerEnter=${(event) => { if (event.pointerType === "mouse") isOver.current = true; }} onPointerLeave=${() => { isOver.current = false; }}>
    ${rows.length ? html`<table role="table" class="list cards" aria-label="Live stream, the newest first"><colgroup><col class="c-time" /><col class="c-kind" /><col class="c-service" /><col /><col class="c-source" /></colgroup>
      <thead role="rowgroup"><tr role="row">${["Time", "Kind", "Service", "What", "From"].map((word) => html`<th role="columnheader" scope="col">${word}</th>`)}</tr></thead>
      <tbody role="rowgroup">${rows.map((row) => html`<${Row} key=${row.key} row=${row} />`)}</tbody></table>`
    : html`<div class="empty"><p class="muted">${stream.rows.length ? "Nothing that came matches." : stream.state === "live" ? "Connected. Nothing has come yet: windows come every 10 seconds while a service logs." : "Waiting for the connection."}</p></div>`}</div>`;
}
