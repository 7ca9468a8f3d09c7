// Signing in with an API key: the key is sent once, and never kept in the browser.
import { useState } from "preact/hooks";
import { html } from "../html.js";
import { call } from "../api.js";
import { useTitle } from "../parts.js";

export function SignIn({ done }) {
  const [error, setError] = useState("");
  const [isBusy, setBusy] = useState(false);
  useTitle("Sign in");
  const submit = async (event) => {
    event.preventDefault();
    const key = new FormData(event.target).get("key").trim();
    setBusy(true);
    try {
      done(await call("/session", { method: "POST", body: JSON.stringify({ key }) }));
    } catch (found) {
      setError(found.message);
      setBusy(false);
    }
  };
  return html`<main><form class="panel signin" onSubmit=${submit}>
    <h1>Helios</h1>
    <label>API key <input class="input" name="key" type="password" autocomplete="current-password" required autofocus aria-describedby="signin-said" /></label>
    <p class="muted" id="signin-said">${error ? html`<span class="error" role="alert">${error}</span>` : "A key with the scope “read”. You stay signed in for 12 hours."}</p>
    <button class="button primary" disabled=${isBusy}>${isBusy ? "Signing in…" : "Sign in"}</button></form></main>`;
}
