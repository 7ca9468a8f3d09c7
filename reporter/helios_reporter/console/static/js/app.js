// The page: header, views by the hash, help, signing in.
import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "./html.js";
import { call, onSignedOut, useResource } from "./api.js";
import { zone } from "./format.js";
import { areOn, KEYS, switchKeys, useKeys } from "./keys.js";
import { live, useLive, useMessages } from "./live.js";
import { useTick } from "./parts.js";
import { link, useRoute } from "./router.js";
import { choice, choose, THEMES } from "./theme.js";
import { SignIn } from "./views/signin.js";
import { Incidents } from "./views/incidents.js";
import { Incident } from "./views/incident.js";
import { Services } from "./views/services.js";
import { Service } from "./views/service.js";
import { Live } from "./views/live.js";

const NAV = [["incidents", "Incidents"], ["services", "Services"], ["live", "Live"]];
const WORDS = { live: "live", connecting: "connecting", reconnecting: "reconnecting", offline: "offline" };
const ICONS = {
  system: html`<path d="M2.5 3h11v8h-11zM6 13.5h4M8 11v2.5" fill="none" stroke="currentColor" stroke-width="1.4"/>`,
  light: html`<g fill="none" stroke="currentColor" stroke-width="1.4" stroke-linecap="round"><circle cx="8" cy="8" r="3"/><path d="M8 1.2v1.6M8 13.2v1.6M1.2 8h1.6M13.2 8h1.6M3.2 3.2l1.1 1.1M11.7 11.7l1.1 1.1M3.2 12.8l1.1-1.1M11.7 4.3l1.1-1.1"/></g>`,
  dark: html`<path d="M13 9.8A5.6 5.6 0 0 1 6.2 3a5.6 5.6 0 1 0 6.8 6.8z" fill="none" stroke="currentColor" stroke-width="1.4" stroke-linejoin="round"/>`,
};

function Sun() {
  return html`<svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="5" fill="currentColor"/><g stroke="currentColor" stroke-width="2" stroke-linecap="round">
    <path d="M12 1.5v3M12 19.5v3M1.5 12h3M19.5 12h3M4.6 4.6l2.1 2.1M17.3 17.3l2.1 2.1M4.6 19.4l2.1-2.1M17.3 6.7l2.1-2.1"/></g></svg>`;
}

function Connection() {
  const { state, retryAt } = useLive();
  useTick(1000);
  const wait = Math.max(Math.ceil((retryAt - Date.now()) / 1000), 0);
  const rest = state !== "live" && state !== "connecting" && wait ? ` · ${wait} s` : "";
  return html`<span class="connection" data-state=${state}><span class="lamp" aria-hidden="true"></span>
    <span><span role="status">${WORDS[state]}</span>${rest}</span></span>`;
}

function ThemeButton({ theme, next }) {
  return html`<button type="button" class="button plain" onClick=${next} title=${`Theme: ${theme}`} aria-label=${`Theme: ${theme}. Change it`}>
    <svg viewBox="0 0 16 16" aria-hidden="true">${ICONS[theme]}</svg></button>`;
}

function Help({ dialog }) {
  const [on, setOn] = useState(areOn);
  const change = (event) => { switchKeys(event.target.checked); setOn(event.target.checked); };
  return html`<dialog ref=${dialog} aria-labelledby="help-title"><h1 id="help-title">Keyboard</h1>
    <dl class="keys">${KEYS.map(([key, what]) => html`<dt><kbd>${key}</kbd></dt><dd>${what}</dd>`)}</dl>
    <p><label><input type="checkbox" checked=${on} onChange=${change} /> single-key shortcuts are on</label></p>
    <form method="dialog"><p><button class="button">Close</button></p></form></dialog>`;
}

/** How many incidents are open: from the API, and again when the stream says that one changed. */
function useOpenCount() {
  const { data, reload } = useResource("/stats", { everyMs: 60_000 });
  useMessages((message) => { if (message.type === "incident" || message.type === "resync") reload(); }, []);
  if (!data) return 0;
  return (data.incidents.triggered ?? 0) + (data.incidents.acknowledged ?? 0);
}

function Page({ canSignOut, onSignOut }) {
  const route = useRoute();
  const [theme, setTheme] = useState(choice);
  const dialog = useRef(null);
  const main = useRef(null);
  const openCount = useOpenCount();
  const nextTheme = () => {
    const next = THEMES[(THEMES.indexOf(choice()) + 1) % THEMES.length];
    choose(next);
    setTheme(next);
  };
  const help = () => dialog.current?.showModal();
  useKeys({
    "g i": () => { location.hash = link("incidents"); },
    "g s": () => { location.hash = link("services"); },
    "g l": () => { location.hash = link("live"); },
    "?": help, t: nextTheme,
  }, []);
  useEffect(() => { live.start(); }, []);
  const place = `${route.view}/${route.name}`;
  const first = useRef(true);
  useEffect(() => {
    if (!first.current) { main.current?.focus({ preventScroll: true }); scrollTo(0, 0); }
    first.current = false;
  }, [place]);
  return html`<a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); main.current.focus(); }}>Skip to the content</a>
  <header class="top">
    <a class="brand" href=${link("incidents")}><${Sun} />Helios</a>
    <nav class="nav" aria-label="Views">${NAV.map(([view, word]) => html`<a href=${link(view)} aria-current=${route.view === view ? "page" : undefined}>${word}
      ${view === "incidents" && openCount ? html`<span class="count" title=${`${openCount} open`}>${openCount}<span class="hidden-text"> open</span></span>` : null}</a>`)}</nav>
    <span class="spacer"></span>
    <${Connection} />
    <${ThemeButton} theme=${theme} next=${nextTheme} />
    <button type="button" class="button plain help-button" onClick=${help} title="Keyboard (?)" aria-label="Keyboard shortcuts">?</button>
    ${canSignOut ? html`<button type="button" class="button plain" onClick=${onSignOut}>Sign out</button>` : null}
  </header>
  <main id="main" tabindex="-1" ref=${main}><${View} key=${place} route=${route} /></main>
  <footer class="foot"><span>Times are ${zone}.</span><span class="keyboard">Press <kbd>?</kbd> for the keyboard.</span><span class="spacer"></span><a href="/openapi.json">API</a></footer>
  <${Help} dialog=${dialog} />`;
}

function View({ route }) {
  const { view, name, params } = route;
  if (view === "incidents") return name ? html`<${Incident} id=${name} />` : html`<${Incidents} params=${params} />`;
  if (view === "services") return name ? html`<${Service} name=${name} params=${params} />` : html`<${Services} />`;
  if (view === "live") return html`<${Live} params=${params} />`;
  return html`<div class="notice">There is no view “${view}”. <a href=${link("incidents")}>Incidents</a></div>`;
}

function App() {
  const [session, setSession] = useState(null);
  const [error, setError] = useState(null);
  const look = () => call("/session").then((found) => { setError(null); setSession(found); }, setError);
  useEffect(() => { look(); }, []);
  useEffect(() => onSignedOut(() => setSession({ needed: true, signed_in: false })), []);
  useEffect(() => { if (error) { const timer = setTimeout(look, 3000); return () => clearTimeout(timer); } return undefined; }, [error]);
  const signOut = async () => { await call("/session", { method: "DELETE" }).catch(() => null); location.reload(); };
  if (error && !session) return html`<main><div class="notice" role="alert">${error.message} Trying again…</div></main>`;
  if (!session) return null;
  if (session.needed && !session.signed_in) return html`<${SignIn} done=${setSession} />`;
  return html`<${Page} canSignOut=${session.needed} onSignOut=${signOut} />`;
}

render(html`<${App} />`, document.getElementById("app"));
