// The list of incidents: filtered, live, and never moving under the pointer.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { html } from "../html.js";
import { call, useResource } from "../api.js";
import { between, count, duration, plural } from "../format.js";
import { step, useKeys } from "../keys.js";
import { useMessages } from "../live.js";
import { Failure, ServiceTag, Severity, Skeleton, State, Time, useTick, useTitle } from "../parts.js";
import { link, setParams } from "../router.js";
import { FirstSteps } from "./empty.js";
import { Lanes } from "./lanes.js";

const STATES = [["", "All"], ["open", "Open"], ["resolved", "Resolved"]];
const PAGE = 100;
const MAX_TAGS = 4;

function matches(incident, state, words) {
  if (state === "open" && incident.state === "resolved") return false;
  if (state && state !== "open" && incident.state !== state) return false;
  const text = `${incident.id} ${incident.title} ${incident.severity} ${incident.state} ${incident.services.join(" ")}`.toLowerCase();
  return words.every((word) => text.includes(word));
}

/** The first claim without what it is compared with, which stands in the report. */
const short = (text) => text.replace(/ \([^()]*\)\.$/, ".");

function Row({ incident, isFresh }) {
  const isOver = incident.state === "resolved";
  const lasted = duration(between(incident.onset, incident.resolved ?? new Date()));
  const classes = `${isOver ? "is-over" : ""} ${isFresh ? "fresh" : ""}`;
  return html`<tr role="row" class=${classes}>
    <td role="cell"><${Severity} level=${incident.severity} /></td>
    <td role="cell" class="title"><a class="row-link" href=${link("incidents", incident.id)}>${incident.title}</a>${incident.headline ? html`<span class="headline-text">${short(incident.headline)}</span>` : null}</td>
    <td role="cell"><div class="tags">${incident.services.slice(0, MAX_TAGS).map((name) => html`<${ServiceTag} name=${name} />`)}
      ${incident.services_total > MAX_TAGS ? html`<span class="muted">+${incident.services_total - MAX_TAGS}</span>` : null}</div></td>
    <td role="cell" class="time"><${Time} at=${incident.onset} /></td>
    <td role="cell" class="time age"><${Time} at=${incident.onset} relative /></td>
    <td role="cell" class="number" data-label="lasted">${lasted}</td>
    <td role="cell"><${State} state=${incident.state} /></td>
    <td role="cell" class="number" data-label="alerts">${count(incident.alerts)}</td></tr>`;
}

/** The incidents that are shown, those that wait behind the pill, and what changed. */
function useIncidents(isHeld) {
  const { data, error, reload } = useResource(`/incidents?limit=${PAGE}`);
  const [known, setKnown] = useState(null); // by id
  const [waiting, setWaiting] = useState([]); // ids that are not shown yet
  const [fresh, setFresh] = useState(() => new Set());
  const [next, setNext] = useState(null);
  const shown = useRef(null);
  shown.current = known;
  useEffect(() => {
    if (!data) return;
    setKnown((old) => new Map([...(old ?? []), ...data.incidents.map((incident) => [incident.id, incident])]));
    setNext((old) => (shown.current ? old : data.next));
  }, [data]);
  useMessages((message) => {
    if (message.type === "resync") reload();
    if (message.type !== "incident") return;
    const { incident } = message;
    const isNew = !shown.current?.has(incident.id);
    setKnown((old) => (old ? new Map(old).set(incident.id, incident) : old));
    if (isNew && isHeld()) setWaiting((ids) => [...ids.filter((id) => id !== incident.id), incident.id]);
    setFresh((ids) => new Set(ids).add(incident.id));
  }, []);
  const more = async () => {
    const page = await call(`/incidents?limit=${PAGE}&before=${encodeURIComponent(next)}`);
    setKnown((old) => new Map([...old, ...page.incidents.map((incident) => [incident.id, incident])]));
    setNext(page.next);
  };
  const release = () => setWaiting([]);
  return { known, waiting, fresh, error, reload, release, more: next ? more : null };
}

export function Incidents({ params }) {
  const state = params.get("state") ?? "";
  const query = params.get("q") ?? "";
  const input = useRef(null);
  const isOver = useRef(false);
  const isHeld = () => isOver.current || scrollY > 40 || document.activeElement?.classList.contains("row-link");
  const { known, waiting, fresh, error, reload, release, more } = useIncidents(isHeld);
  useTick(10_000);
  useTitle("Incidents");
  useKeys({
    j: () => step("a.row-link", 1), k: () => step("a.row-link", -1), "/": () => input.current?.focus(),
    Escape: () => { if (query || state) setParams({ q: "", state: "" }); },
  }, [query, state]);
  const all = useMemo(() => [...(known ?? new Map()).values()].filter(({ id }) => !waiting.includes(id))
    .sort((a, b) => (a.opened < b.opened ? 1 : a.opened > b.opened ? -1 : a.id < b.id ? -1 : 1)), [known, waiting]);
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const found = all.filter((incident) => matches(incident, state, words));
  const open = all.filter((incident) => incident.state !== "resolved").length;
  return html`<div class="bar"><h1>Incidents</h1>
    <div class="segments" role="group" aria-label="State">${STATES.map(([value, word]) => html`<button type="button" class="button" aria-pressed=${state === value} onClick=${() => setParams({ state: value })}>${word}</button>`)}</div>
    <input ref=${input} class="input" type="search" placeholder="Filter by title, service, severity" aria-label="Filter incidents" value=${query} onInput=${(event) => setParams({ q: event.target.value })} />
    <span class="spacer"></span>
    ${known ? html`<span class="muted">${open ? `${open} open of ${all.length}` : `${plural(all.length, "incident")}, none open`}${more ? " and more" : ""}</span>` : null}</div>
  ${error ? html`<${Failure} error=${error} retry=${reload} what="Incidents" />` : null}
  ${!known && !error ? html`<${Skeleton} />` : null}
  ${known && !all.length ? html`<${FirstSteps} />` : null}
  ${all.length > 1 ? html`<${Lanes} incidents=${found} />` : null}
  ${waiting.length ? html`<div class="pill-row"><button type="button" class="pill" onClick=${release}>${waiting.length} new</button></div>` : null}
  ${all.length ? html`<div class="panel" onPointerEnter=${() => { isOver.current = true; }} onPointerLeave=${() => { isOver.current = false; }}>
    ${found.length ? html`<table role="table" class="list rows cards" aria-label="Incidents, the latest first"><thead role="rowgroup"><tr role="row">
      ${["Severity", "Title", "Services", "Started", "Age"].map((word) => html`<th role="columnheader" scope="col">${word}</th>`)}
      <th role="columnheader" scope="col" class="number">Lasted</th><th role="columnheader" scope="col">State</th><th role="columnheader" scope="col" class="number">Alerts</th></tr></thead>
      <tbody role="rowgroup">${found.map((incident) => html`<${Row} key=${incident.id} incident=${incident} isFresh=${fresh.has(incident.id)} />`)}</tbody></table>`
    : html`<div class="empty"><p>No incident matches. <button type="button" class="button" onClick=${() => setParams({ q: "", state: "" })}>Show all</button></p></div>`}
  </div>` : null}
  ${more ? html`<p class="bar"><button type="button" class="button" onClick=${more}>Load earlier ones</button></p>` : null}`;
}
