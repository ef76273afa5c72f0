// What htmx does not do: it keeps a thread scrolled to its end, limits the rows of a
// live table, and focuses the search with a key.
"use strict";
(() => {
  const near = 120; // within this many px of the end, a thread counts as scrolled to its end

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
