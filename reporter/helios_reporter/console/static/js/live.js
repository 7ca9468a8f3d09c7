// The live stream: one WebSocket for the page, which comes back by itself and says what it has missed.
import { useEffect, useState } from "preact/hooks";

const SILENCE_MS = 35_000; // two heartbeats and some
const OFFLINE_AFTER = 4; // attempts
const MAX_ROWS = 1000;
const PAINT_MS = 250;

/** @typedef {{id: number, type: string, at: string}} Message */

class LiveStream {
  state = "connecting"; // connecting, live, reconnecting, offline
  retryAt = 0;
  dropped = 0;
  received = 0;
  /** @type {Message[]} the newest first */
  rows = [];
  #lastId = null;
  #attempts = 0;
  #socket = null;
  #silence = 0;
  #retry = 0;
  #messages = new Set();
  #changes = new Set();
  #painting = 0;

  start() {
    if (this.#socket !== null) return;
    addEventListener("online", () => this.#open());
    addEventListener("offline", () => this.#lost(true));
    this.#open();
  }

  /** @param {(message: Message) => void} listener gets alerts, incidents, windows, events and {type: "resync"} */
  onMessage(listener) { this.#messages.add(listener); return () => this.#messages.delete(listener); }

  /** @param {() => void} listener called at most four times a second */
  onChange(listener) { this.#changes.add(listener); return () => this.#changes.delete(listener); }

  #open() {
    clearTimeout(this.#retry);
    if (this.#socket !== null) this.#socket.onclose = null, this.#socket.close();
    const url = new URL("/api/v1/ws/events", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    if (this.#lastId !== null) url.searchParams.set("after", String(this.#lastId));
    const socket = new WebSocket(url);
    this.#socket = socket;
    socket.onmessage = (event) => { if (socket === this.#socket) this.#take(JSON.parse(event.data)); };
    socket.onclose = () => { if (socket === this.#socket) this.#lost(false); };
    this.#watch();
  }

  #watch() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#lost(false), SILENCE_MS);
  }

  #lost(isOffline) {
    clearTimeout(this.#silence);
    clearTimeout(this.#retry);
    if (this.#socket !== null) this.#socket.onclose = null, this.#socket.close();
    this.#attempts += 1;
    const wait = Math.min(500 * 2 ** (this.#attempts - 1), 15_000) * (0.75 + Math.random() / 2);
    this.state = isOffline || this.#attempts > OFFLINE_AFTER ? "offline" : "reconnecting";
    this.retryAt = Date.now() + wait;
    this.#retry = setTimeout(() => this.#open(), wait);
    this.#changed();
  }

  #take(message) {
    this.#watch();
    this.state = "live";
    const wasAway = this.#attempts > 0;
    this.#attempts = 0;
    if (message.type === "snapshot") {
      for (const kept of message.messages) this.#add(kept);
      this.#lastId = message.id;
      if (wasAway) this.#tell({ type: "resync" });
    } else if (message.type === "gap") {
      this.#lastId = null;
      this.rows = []; // what comes now does not follow what was here, and may have its ids
      this.#tell({ type: "resync" });
    } else if (message.type === "dropped") {
      this.dropped = message.dropped;
      this.#tell({ type: "resync" });
    } else if (message.type !== "heartbeat") {
      this.#add(message);
    }
    this.#changed();
  }

  #add(message) {
    if (this.#lastId !== null && message.id <= this.#lastId) return;
    this.#lastId = message.id;
    const rows = message.type === "windows" ? message.windows.map((w, i) => ({ ...message, window: w, key: `${message.id}.${i}` })) : [{ ...message, key: String(message.id) }];
    this.received += rows.length;
    this.rows = [...rows.reverse(), ...this.rows].slice(0, MAX_ROWS);
    this.#tell(message);
  }

  #tell(message) { for (const listener of this.#messages) listener(message); }

  #changed() {
    if (this.#painting) return;
    this.#painting = setTimeout(() => {
      this.#painting = 0;
      for (const listener of this.#changes) listener();
    }, PAINT_MS);
  }
}

export const live = new LiveStream();

/** Renders again when the stream has changed. */
export function useLive() {
  const [, setTurn] = useState(0);
  useEffect(() => live.onChange(() => setTurn((n) => n + 1)), []);
  return live;
}

/** Calls `listener` for every message while the view is shown. */
export function useMessages(listener, inputs) {
  useEffect(() => live.onMessage(listener), inputs);
}
