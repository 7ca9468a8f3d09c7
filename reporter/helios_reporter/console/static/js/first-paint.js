// Sets the theme before the first paint. A classic script: modules run too late for it.
{
  let chosen = null;
  try { chosen = localStorage.getItem("helios.theme"); } catch { /* storage is switched off */ }
  const dark = chosen === "dark" || (chosen !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}
