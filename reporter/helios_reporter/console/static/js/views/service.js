// One service: its charts over an hour to a week, whether its model is trained, its incidents.
import { html } from "../html.js";
import { useResource } from "../api.js";
import { Chart, CHARTS, ChartTable } from "../charts.js";
import { count, duration, share } from "../format.js";
import { useKeys } from "../keys.js";
import { useMessages } from "../live.js";
import { Failure, Severity, State, Time, useTitle } from "../parts.js";
import { link, setParams } from "../router.js";
import { Learning } from "./services.js";

const POINTS = 360;
const RANGES = [["1h", "1 h", 3600], ["6h", "6 h", 21600], ["24h", "24 h", 86400], ["7d", "7 d", 604800]];

export function Service({ name, params }) {
  const [, , seconds] = RANGES.find(([key]) => key === params.get("range")) ?? RANGES[0];
  const until = params.get("until"); // seconds since the epoch: a look at the past
  const refreshMs = until ? 0 : Math.max(10_000, seconds * 5);
  const end = until ? Number(until) : Math.ceil(Date.now() / refreshMs) * (refreshMs / 1000);
  const path = `/services/${encodeURIComponent(name)}/windows?from=${end - seconds}&to=${end}&step=${Math.round(seconds / POINTS)}`;
  const { data, error, reload } = useResource(path, { everyMs: refreshMs, keep: `${name} ${seconds} ${until}` });
  const all = useResource("/services", { everyMs: 15_000 });
  const incidents = useResource(`/incidents?limit=50&service=${encodeURIComponent(name)}`);
  useMessages((message) => {
    if (message.type === "resync" || (message.type === "incident" && message.incident.services.includes(name))) { incidents.reload(); reload(); }
  }, [name]);
  useTitle(name);
  useKeys({ Escape: () => { location.hash = link("services"); } }, []);
  const own = all.data?.services.find((service) => service.name === name);
  const lastEnd = own?.last_window ? Math.ceil(new Date(own.last_window) / 1000) : 0;
  const isEmpty = data && data.events_per_minute.every((value) => value === null);
  return html`<div class="headline"><p class="crumbs"><a href=${link("services")}>Services</a></p><h1>${name}</h1>
    <div class="meta">${own ? html`<span>last window <strong><${Time} at=${own.last_window} /></strong> (<${Time} at=${own.last_window} relative />)</span>
      <span><strong>${count(own.events_5m)}</strong> events in 5 min${own.events_5m ? html`, <strong>${share(own.errors_5m / own.events_5m)}</strong> errors` : null}</span>
      <span>${own.open_alerts ? html`<span class="state" data-state="triggered">${own.open_alerts} open alerts</span>` : "no open alert"}</span>
      ${own.learning ? html`<span>model: <${Learning} learning=${own.learning} /></span>` : null}` : null}</div></div>
  <div class="bar"><div class="segments" role="group" aria-label="Interval">${RANGES.map(([key, word, length]) => html`<button type="button" class="button" aria-pressed=${length === seconds} onClick=${() => setParams({ range: key })}>${word}</button>`)}</div>
    ${until ? html`<button type="button" class="button" onClick=${() => setParams({ until: "" })}>Back to now</button>` : null}
    <span class="spacer"></span>${data ? html`<span class="muted">one point is ${duration(data.step_s)}</span>` : null}</div>
  ${error ? html`<${Failure} error=${error} retry=${reload} what="The charts" />` : null}
  ${isEmpty && lastEnd && !until ? html`<div class="notice" data-kind="info">Nothing was counted in this interval. <button type="button" class="button" onClick=${() => setParams({ until: String(lastEnd) })}>Show the last that was</button></div>` : null}
  <section class="panel"><div class="body"><div class="charts tall">${CHARTS.map((chart) => (data ? html`<${Chart} key=${chart.name} chart=${chart} data=${data} service=${name} />`
    : html`<div class="chart" key=${chart.name}><div class="caption"><span class="name">${chart.name}</span></div><div class="plot"></div></div>`))}</div>
    ${data ? html`<${ChartTable} data=${data} service=${name} />` : null}</div></section>
  <section class="panel wide"><h2>Its incidents</h2>${incidents.error ? html`<div class="body"><${Failure} error=${incidents.error} retry=${incidents.reload} what="Its incidents" /></div>` : null}
    ${incidents.data && !incidents.data.incidents.length ? html`<div class="body"><p class="muted">None.</p></div>` : null}
    ${incidents.data?.incidents.length ? html`<table role="table" class="list rows cards" aria-label=${`Incidents of ${name}`}><tbody role="rowgroup">${incidents.data.incidents.map((incident) => html`<tr role="row" key=${incident.id}><td role="cell"><${Severity} level=${incident.severity} /></td>
      <td role="cell" class="title"><a class="row-link" href=${link("incidents", incident.id)}>${incident.title}</a></td><td role="cell" class="time"><${Time} at=${incident.onset} /></td><td role="cell"><${State} state=${incident.state} /></td></tr>`)}</tbody></table>` : null}</section>`;
}
