// Every service, with what it does now and whether its model is trained.
import { useRef, useState } from "preact/hooks";
import { html } from "../html.js";
import { useResource } from "../api.js";
import { count, plural, share } from "../format.js";
import { step, useKeys } from "../keys.js";
import { useMessages } from "../live.js";
import { Failure, Skeleton, Time, useTitle } from "../parts.js";
import { link } from "../router.js";
import { FirstSteps } from "./empty.js";

export function Learning({ learning }) {
  if (!learning) return html`<span class="muted">–</span>`;
  const [seen, needed] = learning;
  if (seen >= needed) return "trained";
  return html`<span class="learn"><progress value=${seen} max=${needed} aria-label="Learning"></progress>${count(seen)} of ${count(needed)} windows</span>`;
}

export function Services() {
  const { data, error, reload } = useResource("/services", { everyMs: 10_000 });
  const [query, setQuery] = useState("");
  const input = useRef(null);
  useMessages((message) => { if (message.type === "alert" || message.type === "resync") reload(); }, []);
  useTitle("Services");
  useKeys({ j: () => step("a.row-link", 1), k: () => step("a.row-link", -1), "/": () => input.current?.focus() }, []);
  const found = (data?.services ?? []).filter(({ name }) => name.toLowerCase().includes(query.toLowerCase()))
    .sort((a, b) => b.open_alerts - a.open_alerts || (a.name < b.name ? -1 : 1));
  return html`<div class="bar"><h1>Services</h1>
    <input ref=${input} class="input" type="search" placeholder="Filter by name" aria-label="Filter services" value=${query} onInput=${(event) => setQuery(event.target.value)} />
    <span class="spacer"></span>${data ? html`<span class="muted">${plural(data.services.length, "service")}</span>` : null}</div>
  ${error ? html`<${Failure} error=${error} retry=${reload} what="The services" />` : null}
  ${!data && !error ? html`<${Skeleton} />` : null}
  ${data && !data.services.length ? html`<${FirstSteps} />` : null}
  ${found.length ? html`<div class="panel"><table role="table" class="list rows cards narrow" aria-label="Services"><thead role="rowgroup"><tr role="row">
    <th role="columnheader" scope="col">Service</th><th role="columnheader" scope="col">Alerts</th><th role="columnheader" scope="col" class="number">Events, 5 min</th><th role="columnheader" scope="col" class="number">Errors</th>
    <th role="columnheader" scope="col">Last window</th><th role="columnheader" scope="col">Model</th></tr></thead>
    <tbody role="rowgroup">${found.map((service) => html`<tr role="row" key=${service.name}><td role="cell" class="title"><a class="row-link" href=${link("services", service.name)}>${service.name}</a></td>
      <td role="cell">${service.open_alerts ? html`<span class="state" data-state="triggered">${service.open_alerts} open</span>` : html`<span class="muted">none</span>`}</td>
      <td role="cell" class="number" data-label="events">${count(service.events_5m)}</td><td role="cell" class="number" data-label="errors">${service.events_5m ? share(service.errors_5m / service.events_5m) : "–"}</td>
      <td role="cell" class="time"><${Time} at=${service.last_window} /> <span class="muted">(<${Time} at=${service.last_window} relative />)</span></td><td role="cell"><${Learning} learning=${service.learning} /></td></tr>`)}</tbody></table></div>` : null}`;
}
