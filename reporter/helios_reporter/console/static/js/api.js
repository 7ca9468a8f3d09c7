// The API: JSON in, or an ApiError that says what happened and whether trying again can help.
import { useCallback, useEffect, useRef, useState } from "preact/hooks";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
    this.retryable = status === 0 || status >= 500;
  }
}

const signedOut = new Set();
/** @param {() => void} listener called when the API says that one has to sign in */
export const onSignedOut = (listener) => { signedOut.add(listener); return () => signedOut.delete(listener); };

export async function call(path, options = {}) {
  let response, document;
  try {
    response = await fetch(`/api/v1${path}`, { credentials: "same-origin", ...options });
    document = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (!response) throw new ApiError(0, "The console cannot be reached. Is Helios running?");
    throw new ApiError(response.ok ? 0 : response.status, `The answer (${response.status}) could not be read.`);
  }
  if (response.ok) return document;
  if (response.status === 401 && path !== "/session") for (const listener of signedOut) listener();
  throw new ApiError(response.status, document.error || `${response.status} ${response.statusText}`);
}

/**
 * What a path gives, loaded again every `everyMs`, and when asked. What was there stays while it loads and when it fails.
 * @param {string | null} path null loads nothing
 * @param {{everyMs?: number, keep?: string}} options what came of another path with the same `keep` stays until this one has come
 */
export function useResource(path, { everyMs = 0, keep = path } = {}) {
  const [state, setState] = useState({ data: null, error: null, keep });
  const [turn, setTurn] = useState(0);
  const reload = useCallback(() => setTurn((n) => n + 1), []);
  const timer = useRef(0);
  useEffect(() => {
    if (path === null) return undefined;
    const aborting = new AbortController();
    const load = async () => {
      try {
        const data = await call(path, { signal: aborting.signal });
        setState({ data, error: null, keep });
      } catch (error) {
        if (error.name === "AbortError") return;
        setState((old) => ({ data: old.keep === keep ? old.data : null, error, keep }));
      }
      if (everyMs && !aborting.signal.aborted) timer.current = setTimeout(load, everyMs);
    };
    load();
    return () => { aborting.abort(); clearTimeout(timer.current); };
  }, [path, everyMs, turn]);
  const isCurrent = state.keep === keep;
  return { data: isCurrent ? state.data : null, error: isCurrent ? state.error : null, reload };
}
