// Keeps the parts of a page that carry data-live fresh. Without it, everything works after a reload.
"use strict";
const EVERY = 15000;

async function refresh() {
  const parts = document.querySelectorAll("[data-live]");
  if (!parts.length || document.hidden) return;
  const answer = await fetch(location.pathname + location.search, { headers: { Accept: "text/html" } });
  if (!answer.ok || answer.redirected) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of parts) {
    const news = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
    if (news && !part.contains(document.activeElement) && news.innerHTML !== part.innerHTML) {
      part.replaceChildren(...news.childNodes);
    }
  }
}

setInterval(() => refresh().catch(() => {}), EVERY);
