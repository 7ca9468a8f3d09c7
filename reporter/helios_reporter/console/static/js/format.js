// Times and numbers as a person reads them. Times are local; their full form is in the title.
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const two = (n) => String(n).padStart(2, "0");

export const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "local time";

export function clock(date, { ms = false, seconds = true } = {}) {
  let text = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (seconds || ms) text += `:${two(date.getSeconds())}`;
  return ms ? `${text}.${String(date.getMilliseconds()).padStart(3, "0")}` : text;
}

/** The day is left out when it is today's; the year when it is this one. */
export function moment(text, options) {
  const date = new Date(text);
  const now = new Date();
  if (date.toDateString() === now.toDateString()) return clock(date, options);
  const year = date.getFullYear() === now.getFullYear() ? "" : ` ${date.getFullYear()}`;
  return `${date.getDate()} ${MONTHS[date.getMonth()]}${year} ${clock(date, options)}`;
}

export function day(date) {
  return `${date.getDate()} ${MONTHS[date.getMonth()]}`;
}

/** @param {number} seconds */
export function duration(seconds) {
  const s = Math.max(Math.round(seconds), 0);
  if (s < 60) return `${s} s`;
  if (s < 3600) return s < 600 && s % 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.round(s / 60)} min`;
  if (s < 86400 * 2) {
    const minutes = Math.round((s % 3600) / 60);
    return minutes && minutes < 60 ? `${Math.floor(s / 3600)} h ${minutes} min` : `${Math.round(s / 3600)} h`;
  }
  return `${Math.round(s / 86400)} d`;
}

/** An interval; the day of its end is left out when it is that of its start. */
export function interval(from, to) {
  const [a, b] = [new Date(from), new Date(to)];
  return `${moment(from)} to ${a.toDateString() === b.toDateString() ? clock(b) : moment(to)}`;
}

export const between = (from, to) => (new Date(to) - new Date(from)) / 1000;
export const ago = (text) => {
  const seconds = (Date.now() - new Date(text)) / 1000;
  return seconds < 5 ? "just now" : `${duration(seconds)} ago`;
};

/** Three significant digits, thousands with a thin space. */
export function count(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${significant(value / 1e6)} M`;
  if (size >= 1e4) return `${significant(value / 1e3)} k`;
  return size >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en").replaceAll(",", "\u202f") : significant(value);
}
const significant = (value) => String(Number(value.toPrecision(3)));
export const share = (value) => (value === null || value === undefined ? "–" : `${significant(value * 100)}\u00a0%`);
export function latency(ms) {
  if (ms === null || ms === undefined) return "–";
  return ms >= 1000 ? `${significant(ms / 1000)}\u00a0s` : `${significant(ms)}\u00a0ms`;
}
export const plural = (n, word, many = `${word}s`) => `${count(n)} ${n === 1 ? word : many}`;
