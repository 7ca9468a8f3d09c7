// One incident on one screen: what is claimed and by which evidence, charts, timeline, causes, actions, what is normal.
import { useMemo } from "preact/hooks";
import { html } from "../html.js";
import { useResource } from "../api.js";
import { Chart, CHARTS, ChartTable } from "../charts.js";
import { between, clock, duration, moment, plural } from "../format.js";
import { useKeys } from "../keys.js";
import { useMessages } from "../live.js";
import { Failure, Said, ServiceTag, Severity, Skeleton, State, Time, useTick, useTitle } from "../parts.js";
import { link } from "../router.js";
import { Chips, EvidenceTable } from "./evidence.js";

const BEFORE_MS = 30 * 60_000;
const AFTER_MS = 20 * 60_000;
const LONGEST_MS = 24 * 3_600_000;
const MAX_CHARTED = 4;
const POINTS = 110; // a chart is some 300 px wide

function Claims({ claims, evidence, kind = "" }) {
  return html`<ul class=${`claims ${kind}`}>${claims.map((claim) => html`<li>
    ${claim.term ? html`<span class="term">${claim.term}</span>` : null}${claim.kind === "hypothesis" ? html`<span class="guess">hypothesis</span>` : null}
    ${claim.kind === "inferred" && !claim.term ? html`<span class="guess">inferred</span>` : null}<${Said} text=${claim.text} /> <${Chips} ids=${claim.evidence} evidence=${evidence} /></li>`)}</ul>`;
}

function Panel({ title, children }) {
  return html`<section class="panel"><h2>${title}</h2><div class="body">${children}</div></section>`;
}

function ServiceCharts({ service, from, to, evidence, everyMs }) {
  const path = `/services/${encodeURIComponent(service)}/windows?from=${from}&to=${to}&step=${Math.round(between(from, to) / POINTS)}`;
  const { data, error, reload } = useResource(path, { everyMs, keep: service });
  const before = (name) => evidence.find((item) => item.kind === "metric" && item.service === service && item.name === name)?.baseline ?? undefined;
  return html`<div class="chart-group"><div class="head"><h3><a href=${link("services", service)}>${service}</a></h3>
      ${data ? html`<span class="muted">one point is ${duration(data.step_s)}; dotted: the half hour before</span>` : null}</div>
    ${error ? html`<${Failure} error=${error} retry=${reload} what="The charts" />` : null}
    <div class="charts">${data ? CHARTS.map((chart) => html`<${Chart} key=${chart.name} chart=${chart} data=${data} service=${service} reference=${before(chart.reference)} />`)
    : CHARTS.map((chart) => html`<div class="chart" key=${chart.name}><div class="caption"><span class="name">${chart.name}</span></div><div class="plot"></div></div>`)}</div>
    ${data ? html`<${ChartTable} data=${data} service=${service} />` : null}</div>`;
}

function Timeline({ entries, evidence }) {
  return html`<ol class="timeline">${entries.map((entry) => html`<li class=${/^alert /.test(entry.text) ? "turn" : ""}>
    <time datetime=${entry.time} title=${entry.time}>${moment(entry.time)}</time>${entry.text} <${Chips} ids=${entry.evidence} evidence=${evidence} /></li>`)}</ol>`;
}

function ending({ onset, resolved }) {
  const isSameDay = new Date(onset).toDateString() === new Date(resolved).toDateString();
  return html`<time datetime=${resolved} title=${resolved}>${isSameDay ? clock(new Date(resolved)) : moment(resolved)}</time>`;
}

function Head({ incident }) {
  const { report } = incident;
  const end = incident.resolved ?? new Date().toISOString();
  return html`<div class="headline"><p class="crumbs"><a href=${link("incidents")}>Incidents</a> / <span class="mono">${incident.id}</span></p>
    <h1>${incident.title}</h1>
    <div class="meta"><${Severity} level=${incident.severity} badge /><${State} state=${incident.state} />
      <span><strong><${Time} at=${incident.onset} /></strong> to ${incident.resolved ? html`<strong>${ending(incident)}</strong>` : "now"} · ${duration(between(incident.onset, end))}</span>
      <span class="tags">${incident.services.map((name) => html`<${ServiceTag} name=${name} />`)}</span>
      <span>${plural(incident.alerts, "alert")}</span>
      ${report ? html`<span>report ${report.revision}, written by ${report.generator}</span><a href=${`/api/v1/incidents/${encodeURIComponent(incident.id)}/report.md`} target="_blank" rel="noreferrer">Markdown</a>` : null}</div></div>`;
}

/** The interval of the charts: fixed once it is over, so that nothing is loaded twice. */
function chartSpan(incident) {
  const onset = +new Date(incident.onset);
  const end = incident.resolved ? +new Date(incident.resolved) + AFTER_MS : Math.ceil(Date.now() / 60_000) * 60_000;
  const from = onset - BEFORE_MS;
  return { from: new Date(from).toISOString(), to: new Date(Math.min(end, from + LONGEST_MS)).toISOString() };
}

export function Incident({ id }) {
  const { data, error, reload } = useResource(`/incidents/${encodeURIComponent(id)}`);
  useMessages((message) => { if (message.type === "resync" || (message.type === "incident" && message.incident.id === id)) reload(); }, [id]);
  useTick(30_000);
  useTitle(data?.title ?? "Incident");
  useKeys({ Escape: () => { location.hash = link("incidents"); } }, []);
  const evidence = useMemo(() => new Map((data?.evidence ?? []).map((item) => [item.id, item])), [data]);
  if (error && !data) {
    return html`<p class="crumbs"><a href=${link("incidents")}>Incidents</a> / <span class="mono">${id}</span></p><${Failure} error=${error} retry=${reload} what="The incident" />`;
  }
  if (!data) return html`<${Skeleton} rows=${10} />`;
  const { report } = data;
  const span = chartSpan(data);
  const actions = report ? [["now", report.actions_immediate], ["short term", report.actions_short_term], ["long term", report.actions_long_term]]
    .flatMap(([term, claims]) => (claims ?? []).map((claim) => ({ ...claim, term }))) : [];
  return html`<${Head} incident=${data} />
  <div class="split"><div class="column">
    <${Panel} title="Summary">${report ? html`<${Claims} kind="lead" claims=${report.summary} evidence=${evidence} />` : html`<p class="muted">The report is being written.</p>`}<//>
    <${Panel} title="What was measured">${data.services.slice(0, MAX_CHARTED).map((service) => html`<${ServiceCharts} key=${service} service=${service} ...${span} evidence=${data.evidence} everyMs=${data.resolved ? 0 : 30_000} />`)}
      ${data.services.length > MAX_CHARTED ? html`<p class="muted">Charts of the other services: ${data.services.slice(MAX_CHARTED).map((name) => html`<${ServiceTag} name=${name} /> `)}</p>` : null}<//>
    ${report?.impact.length ? html`<${Panel} title="Impact"><${Claims} claims=${report.impact} evidence=${evidence} /><//>` : null}
    ${report ? html`<section class="panel"><h2>Evidence</h2><div class="scroll-x"><${EvidenceTable} items=${data.evidence} /></div></section>` : null}
  </div>
  ${report ? html`<div class="column">
    <${Panel} title="Root cause, as far as it is known">${report.causes.length ? html`<${Claims} claims=${report.causes} evidence=${evidence} />` : html`<p class="muted">No candidate in the evidence.</p>`}<//>
    <${Panel} title="Recommended actions">${actions.length ? html`<${Claims} claims=${actions} evidence=${evidence} />` : html`<p class="muted">None.</p>`}<//>
    <${Panel} title="Timeline"><${Timeline} entries=${report.timeline} evidence=${evidence} /><//>
    <${Panel} title="Checked and normal">${report.checked_and_normal.length ? html`<${Claims} kind="plain" claims=${report.checked_and_normal} evidence=${evidence} />` : html`<p class="muted">Nothing that was checked is normal.</p>`}<//>
    <${Panel} title="Not known"><ul class="claims plain">${[...report.unknowns, ...report.truncation.map((text) => `Left out: only ${text}.`)].map((text) => html`<li>${text}</li>`)}</ul><//>
  </div>` : null}</div>`;
}
