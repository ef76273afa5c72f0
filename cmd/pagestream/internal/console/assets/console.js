// What htmx does not do: keep a thread at its end, a live table short, and the
// search a key away.
"use strict";
(() => {
  const near = 120; // px from the end still counts as at the end

  const atEnd = (el) => el.scrollHeight - el.scrollTop - el.clientHeight < near;
  let follow = true;

  const toEnd = () => {
    const thread = document.getElementById("thread");
    if (thread) thread.scrollTop = thread.scrollHeight;
  };

  document.addEventListener("htmx:beforeSwap", () => {
    const thread = document.getElementById("thread");
    follow = !thread || atEnd(thread);
  });

  document.addEventListener("htmx:afterSettle", () => {
    if (follow) toEnd();
  });

  // A live table drops its oldest rows.
  document.addEventListener("htmx:sseMessage", (e) => {
    const body = e.target.closest("[data-most]");
    if (!body) return;
    for (let n = body.children.length - Number(body.dataset.most); n > 0; n--) body.lastElementChild.remove();
  });

  document.addEventListener("keydown", (e) => {
    const typing = e.target.closest("input, textarea, select");
    if (e.key === "/" && !typing) {
      const search = document.querySelector("input[type=search], .filters input");
      if (search) { e.preventDefault(); search.focus(); }
    }
    if (e.key === "Enter" && (e.ctrlKey || e.metaKey) && e.target.id === "text") e.target.form.requestSubmit();
  });

  document.addEventListener("DOMContentLoaded", toEnd);
})();
