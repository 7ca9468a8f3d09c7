// Charts: uPlot with anomalous intervals shaded. Canvases inherit no CSS: colours are read, and read again on a change of theme.
import uPlot from "uplot";
import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "./html.js";
import { clock, count, day, latency, moment, share } from "./format.js";
import { color, onTheme } from "./theme.js";

export const CHARTS = [
  { name: "Traffic", unit: "events/min", show: count, zero: true, reference: "events_per_minute", series: [{ key: "events_per_minute", label: "events/min", token: "traffic" }] },
  { name: "Error rate", unit: "", show: share, zero: true, reference: "error_rate", series: [{ key: "error_rate", label: "errors", token: "errors" }] },
  { name: "Latency", unit: "", show: latency, zero: true, reference: "p95_latency", series: [
    { key: "p50_ms", label: "p50", token: "p50" }, { key: "p95_ms", label: "p95", token: "p95" }, { key: "p99_ms", label: "p99", token: "p99" },
  ] },
];
const DASHES = { p50: [3, 3] };
const SYNC = "helios";

/** Anomalous intervals behind the lines, each with its edge and a word. */
function shading(shades) {
  return { hooks: { drawClear: (u) => {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const shade of shades) {
      const from = u.valToPos(shade.from, "x", true);
      const to = u.valToPos(shade.to ?? u.scales.x.max, "x", true);
      const width = Math.max(to - from, 2 * devicePixelRatio);
      ctx.fillStyle = color(`--${shade.severity}`);
      ctx.globalAlpha = 0.13;
      ctx.fillRect(from, bbox.top, width, bbox.height);
      ctx.globalAlpha = 0.75;
      ctx.fillRect(from, bbox.top, devicePixelRatio, bbox.height);
      if (shade.to !== null) ctx.fillRect(from + width - devicePixelRatio, bbox.top, devicePixelRatio, bbox.height);
      ctx.fillRect(from, bbox.top, width, 3 * devicePixelRatio);
    }
    ctx.restore();
  }, draw: (u) => {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textBaseline = "top";
    ctx.textAlign = "left";
    let free = -Infinity;
    for (const shade of shades) {
      const from = Math.max(u.valToPos(shade.from, "x", true), bbox.left);
      const to = Math.min(u.valToPos(shade.to ?? u.scales.x.max, "x", true), bbox.left + bbox.width);
      const width = ctx.measureText(shade.family).width;
      let x = from + 5 * devicePixelRatio;
      if (to - from < width + 8 * devicePixelRatio) x = Math.min(to + 4 * devicePixelRatio, bbox.left + bbox.width - width);
      if (x < free || from > bbox.left + bbox.width || to < bbox.left) continue;
      ctx.fillStyle = color(`--${shade.severity}`);
      ctx.fillText(shade.family, x, bbox.top + 7 * devicePixelRatio);
      free = x + width + 6 * devicePixelRatio;
    }
    ctx.restore();
  } } };
}

/** What was normal before, as a dashed line. */
function referenceLine(value) {
  return { hooks: { draw: (u) => {
    const { ctx, bbox } = u;
    const y = u.valToPos(value, "y", true);
    if (y < bbox.top || y > bbox.top + bbox.height) return;
    ctx.save();
    ctx.strokeStyle = color("--axis");
    ctx.globalAlpha = 0.8;
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([2 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.restore();
  } } };
}

function axisTimes(u, splits) {
  const isLong = splits.length > 1 && splits[1] - splits[0] >= 86400;
  return splits.map((s, i) => {
    const date = new Date(s * 1000);
    if (isLong) return day(date);
    const isNewDay = i > 0 && new Date(splits[i - 1] * 1000).getDate() !== date.getDate();
    return isNewDay ? day(date) : clock(date, { seconds: false });
  });
}

function options(chart, data, box, reference, onCursor) {
  const axis = color("--axis");
  const grid = { stroke: color("--grid"), width: 1 };
  const font = "11px system-ui, sans-serif";
  const seen = chart.series.flatMap((series) => data[series.key].filter((value) => value !== null));
  const most = seen.length ? seen.reduce((a, b) => Math.max(a, b)) : 1;
  return {
    width: box.clientWidth, height: box.clientHeight, padding: [6, 18, 0, 0], legend: { show: false },
    cursor: { sync: { key: SYNC, setSeries: false }, drag: { x: false, y: false }, points: { size: 5 } },
    scales: { x: { time: true }, y: { range: [0, Math.max(most, reference ?? 0, 1e-9) * 1.12] } },
    axes: [
      { stroke: axis, grid: { show: false }, ticks: { ...grid, size: 3 }, font, size: 24, gap: 3, space: 62, values: axisTimes },
      { stroke: axis, grid, ticks: { show: false }, font, size: 52, gap: 5, space: 30, values: (u, splits) => splits.map((v) => chart.show(v)) },
    ],
    series: [{}, ...chart.series.map((series) => ({
      label: series.label, stroke: color(`--series-${series.token}`), width: 1.5, dash: DASHES[series.token], spanGaps: false,
      points: { show: (u, i) => isSparse(u.data[i]), size: 4 },
      fill: chart.series.length === 1 ? `color-mix(in srgb, ${color(`--series-${series.token}`)} 12%, transparent)` : undefined,
    }))],
    plugins: [shading(data.shading), ...(reference === undefined ? [] : [referenceLine(reference)])],
    hooks: { setCursor: [(u) => onCursor(u.cursor.idx ?? null)] },
  };
}

/** Points are drawn where lines alone would show nothing: when every second value is missing. */
function isSparse(values) {
  let alone = 0, present = 0;
  for (let i = 0; i < values.length; i++) {
    if (values[i] === null) continue;
    present += 1;
    alone += (values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null;
  }
  return present > 0 && alone * 2 > present;
}

/** The chart in words, for who does not see it. */
export function summary(chart, data, service) {
  const said = chart.series.map(({ key, label }) => {
    const seen = data[key].map((value, i) => [value, data.t[i]]).filter(([value]) => value !== null);
    if (!seen.length) return `${label}: no values`;
    const sorted = seen.map(([value]) => value).sort((a, b) => a - b);
    const [most, at] = seen.reduce((a, b) => (b[0] > a[0] ? b : a));
    return `${label}: median ${chart.show(sorted[sorted.length >> 1])}, highest ${chart.show(most)} at ${clock(new Date(at * 1000))}`;
  });
  const shaded = data.shading.map((s) => `${s.severity} ${s.family} from ${clock(new Date(s.from * 1000))} ${s.to === null ? "until now" : `to ${clock(new Date(s.to * 1000))}`}`);
  return `${chart.name} of ${service} from ${moment(data.from)} to ${moment(data.to)}. ${said.join("; ")}. `
    + (shaded.length ? `Anomalous: ${shaded.slice(0, 5).join("; ")}.` : "Nothing anomalous.");
}

/** @param {{chart: object, data: object, service: string, reference?: number}} props */
export function Chart({ chart, data, service, reference }) {
  const box = useRef(null);
  const [at, setAt] = useState(null);
  const isEmpty = chart.series.every(({ key }) => data[key].every((value) => value === null));
  useEffect(() => {
    if (isEmpty || !box.current) return undefined;
    const element = box.current;
    let plot = null;
    const draw = () => {
      plot?.destroy();
      plot = new uPlot(options(chart, data, element, reference, setAt), [data.t, ...chart.series.map(({ key }) => data[key])], element);
      plot.root.setAttribute("aria-hidden", "true");
    };
    draw();
    const resizing = new ResizeObserver(() => {
      if (plot && element.clientWidth > 0 && plot.width !== element.clientWidth) plot.setSize({ width: element.clientWidth, height: element.clientHeight });
    });
    resizing.observe(element);
    const stop = onTheme(draw);
    return () => { stop(); resizing.disconnect(); plot?.destroy(); };
  }, [data, chart, reference, isEmpty]);
  const index = at !== null && at < data.t.length ? at : null;
  return html`<figure class="chart">
    <figcaption class="caption"><span class="name">${chart.name}${chart.unit ? html` <span class="muted">${chart.unit}</span>` : null}</span>
      ${chart.series.map(({ key, label, token }) => html`<span class="readout">${chart.series.length > 1 ? html`<span class=${`swatch s-${token}`}></span>${label}` : null}
        ${index === null ? null : html`<b>${chart.show(data[key][index])}</b>`}</span>`)}
      ${index === null ? null : html`<span class="readout">${clock(new Date(data.t[index] * 1000))}</span>`}
    </figcaption>
    <div class="plot" ref=${box} role="img" aria-label=${isEmpty ? `${chart.name} of ${service}: no values` : summary(chart, data, service)}>
      ${isEmpty ? html`<span class="none">no ${chart.name.toLowerCase()} in this interval</span>` : null}</div></figure>`;
}

const TABLE_ROWS = 120;
/** The same numbers as a table. */
export function ChartTable({ data, service }) {
  const every = Math.max(Math.ceil(data.t.length / TABLE_ROWS), 1);
  const rows = data.t.map((t, i) => i).filter((i) => i % every === 0);
  const columns = CHARTS.flatMap((chart) => chart.series.map((series) => ({ ...series, show: chart.show })));
  return html`<details class="as-table"><summary>${service} as a table${every > 1 ? `, one point of ${every}` : ""}</summary>
    <div class="scroll" tabindex="0" role="region" aria-label=${`Values of ${service}`}><table class="list"><thead><tr><th scope="col">time</th>
      ${columns.map((column) => html`<th scope="col" class="number">${column.label}</th>`)}</tr></thead>
    <tbody>${rows.map((i) => html`<tr key=${data.t[i]}><td>${moment(data.t[i] * 1000)}</td>${columns.map(({ key, show }) => html`<td class="number">${show(data[key][i])}</td>`)}</tr>`)}</tbody></table></div></details>`;
}
