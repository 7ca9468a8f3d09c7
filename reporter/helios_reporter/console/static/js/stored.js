// What the browser keeps for a person. Storage may be switched off: then it lasts as long as the page.
const here = new Map();

export function stored(name) {
  try {
    return localStorage.getItem(`helios.${name}`) ?? here.get(name) ?? null;
  } catch {
    return here.get(name) ?? null;
  }
}

export function keep(name, value) {
  here.set(name, value);
  try {
    localStorage.setItem(`helios.${name}`, value);
  } catch { /* it is kept for this page */ }
}
