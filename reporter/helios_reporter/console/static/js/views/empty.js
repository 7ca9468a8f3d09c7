// What is said when there is no incident: whether Helios sees anything at all, and how to make it see.
import { html } from "../html.js";
import { useResource } from "../api.js";
import { count, plural } from "../format.js";
import { Command, Failure, Time } from "../parts.js";
import { link } from "../router.js";

const EVENT = `curl -sS ${location.origin}/api/v1/events -H 'Content-Type: application/json' \\
  -d '{"service": "hello", "level": "ERROR", "message": "a first event"}'`;
const AGENT = "helios-agent init && helios-agent test && helios-agent run";

function Learning({ services }) {
  const learning = services.filter(({ learning: found }) => found && found[0] < found[1]);
  if (!learning.length) return "every model is trained";
  const { name, learning: [seen, needed] } = learning.reduce((a, b) => (b.learning[0] / b.learning[1] > a.learning[0] / a.learning[1] ? b : a));
  return `${plural(learning.length, "service")} learning; ${name}: ${count(seen)} of ${count(needed)} windows. Rules are active meanwhile`;
}

export function FirstSteps() {
  const { data, error, reload } = useResource("/services", { everyMs: 5000 });
  if (error && !data) return html`<${Failure} error=${error} retry=${reload} what="The services" />`;
  if (!data) return null;
  const { services } = data;
  const last = services.map((service) => service.last_window).sort().at(-1);
  const watched = html`<div><h3>No incidents</h3><p class="muted">Nothing that was looked at is anomalous.</p></div>
    <dl class="facts"><div><dt>services watched</dt><dd><a href=${link("services")}>${count(services.length)}</a></dd></div>
      <div><dt>last window</dt><dd><${Time} at=${last} /> <span class="muted">(<${Time} at=${last} relative />)</span></dd></div>
      <div><dt>learning</dt><dd><${Learning} services=${services} /></dd></div></dl>`;
  const first = html`<div><h3>Nothing has arrived yet</h3><p class="muted">Helios watches services by their logs. Send a first event, or start an agent where the logs are; this page shows it within seconds.</p></div>`;
  return html`<div class="panel empty">${services.length ? watched : first}
    <div><p class="muted">${services.length ? "Send another event" : "A first event"} (add <code>-H "Authorization: Bearer $HELIOS_API_KEY"</code> where keys are needed):</p><${Command} text=${EVENT} /></div>
    <div><p class="muted">An agent, on the host whose logs it reads (<code>pip install 'helios-observability[agent]'</code>):</p><${Command} text=${AGENT} /></div></div>`;
}
