// Comfort only: every page works without this file.
"use strict";

// A section with data-refresh="seconds" is fetched again and replaced while something is under way.
function watch(section) {
  const seconds = Number(section.dataset.refresh);
  if (!section.id || !(seconds > 0)) return;
  setTimeout(async () => {
    if (document.hidden || section.contains(document.activeElement)) return watch(section);
    try {
      const answer = await fetch(location.href, { headers: { "X-Refresh": "1" }, redirect: "error" });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById(section.id);
      if (!answer.ok || !fresh) return watch(section);
      section.replaceWith(fresh);
      watch(fresh);
    } catch {
      watch(section); // out of reach for the moment
    }
  }, seconds * 1000);
}
document.querySelectorAll("[data-refresh]").forEach(watch);

// A form that takes a while says so, and is not sent twice.
document.addEventListener("submit", (event) => {
  const button = event.submitter;
  if (!button || !button.dataset.busy) return;
  if (button.getAttribute("aria-disabled") === "true") return event.preventDefault();
  button.setAttribute("aria-disabled", "true");
  button.textContent = button.dataset.busy;
});

// Choosing in a filter applies it at once; the button is there for everybody else.
document.querySelectorAll("form[data-apply] select").forEach((field) => {
  field.addEventListener("change", () => field.form.requestSubmit());
});
