// What both pages use.

/** Take the token out of the address bar and the history: the cookie has it now. */
export function dropToken() {
  const here = new URL(location.href);
  if (here.searchParams.has("token") || here.searchParams.has("ticket")) {
    here.searchParams.delete("token");
    here.searchParams.delete("ticket");
    history.replaceState(null, "", here);
  }
}

/** What a page says that is refused: it was another server's, or the token was changed. */
export const NO_TOKEN = "the address needs a new token: run `rrd serve`";

/** 12345678 -> "12.3 MB" */
export function bytes(n) {
  if (n < 1000) return `${Math.round(n)} B`;
  for (const unit of ["kB", "MB", "GB", "TB"]) {
    n /= 1000;
    if (n < 999.5 || unit === "TB") return `${n < 9.95 ? n.toFixed(1) : Math.round(n)} ${unit}`;
  }
}

/** 1234567 -> "1,234,567", as the user's language has it. */
export const count = (n) => n.toLocaleString();

/** Unix seconds -> "5 min ago" */
export function age(at) {
  const seconds = Math.max(0, Date.now() / 1000 - at);
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(at * 1000).toLocaleDateString();
}
