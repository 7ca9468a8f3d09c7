// One lane a service: when each was anomalous, at a glance. The table below says the same in words.
import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "../html.js";
import { clock, day, moment, plural } from "../format.js";
import { link } from "../router.js";

const MAX_LANES = 8;
const LANE = 17;
const RANK = { low: 0, medium: 1, high: 2, critical: 3 };
const STEPS_S = [300, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800, 2592000];

function ticks(from, to, width) {
  const wanted = (to - from) / Math.max(Math.floor(width / 110), 2) / 1000;
  const every = (STEPS_S.find((s) => s >= wanted) ?? 2592000) * 1000;
  const shift = new Date(from).getTimezoneOffset() * 60_000;
  const found = [];
  for (let t = Math.ceil((from - shift) / every) * every + shift; t < to; t += every) found.push(t);
  return found.map((t) => {
    const date = new Date(t);
    return [t, every >= 86_400_000 || (date.getHours() === 0 && date.getMinutes() === 0) ? day(date) : clock(date, { seconds: false })];
  });
}

export function Lanes({ incidents }) {
  const box = useRef(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const resizing = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    resizing.observe(box.current);
    return () => resizing.disconnect();
  }, []);
  const names = [...new Set(incidents.flatMap((incident) => incident.services))];
  const lanes = names.slice(0, MAX_LANES);
  const starts = incidents.map((incident) => +new Date(incident.onset));
  const ends = incidents.map((incident) => +new Date(incident.resolved ?? Date.now()));
  const least = Math.min(...starts), most = Math.max(...ends);
  const margin = Math.max((most - least) * 0.02, 60_000);
  const from = least - margin, to = most + margin;
  const label = width < 500 ? 74 : 120;
  const x = (t) => label + ((t - from) / (to - from)) * (width - label);
  const height = lanes.length * LANE + 18;
  const ordered = [...incidents].sort((a, b) => RANK[a.severity] - RANK[b.severity]);
  return html`<div class="panel lanes"><div ref=${box}>${width && lanes.length ? html`
    <svg viewBox=${`0 0 ${width} ${height}`} height=${height} role="img" aria-label=${`${plural(incidents.length, "incident")} of ${plural(names.length, "service")} from ${moment(from)} to ${moment(to)}`}>
      ${ticks(from, to, width - label).map(([t, word]) => html`<line class="rail" x1=${x(t)} x2=${x(t)} y1="0" y2=${height - 16} /><text class="tick" x=${Math.min(x(t), width - 34) + 3} y=${height - 4}>${word}</text>`)}
      ${lanes.map((name, i) => html`<text class="label" x="0" y=${i * LANE + 12}>${name.length * 6.6 > label ? `${name.slice(0, Math.floor(label / 6.8))}…` : name}</text>
        <line class="rail" x1=${label} x2=${width} y1=${i * LANE + LANE} y2=${i * LANE + LANE} />`)}
      ${ordered.flatMap((incident) => incident.services.filter((name) => lanes.includes(name)).map((name) => {
    const left = x(+new Date(incident.onset)), right = x(+new Date(incident.resolved ?? Date.now()));
    return html`<rect class=${`bar bar-${incident.severity}`} x=${left} y=${lanes.indexOf(name) * LANE + 3} width=${Math.max(right - left, 4)} height=${LANE - 5} rx="1.5"
          onClick=${() => { location.hash = link("incidents", incident.id); }}><title>${`${incident.severity}: ${incident.title}, ${moment(incident.onset)}`}</title></rect>`;
  }))}</svg>` : null}${names.length > MAX_LANES ? html`<p class="muted">and ${names.length - MAX_LANES} more services</p>` : null}</div></div>`;
}
