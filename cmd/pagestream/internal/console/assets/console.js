// What htmx does not do: it reports a lost server, keeps drafts, drops late answers, shows local times, adds
// buttons that copy, keeps a thread scrolled to its end, limits the rows of a live table, and
// focuses the search with a key.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);

  // The server is asked all the time. It is lost if it does not answer twice, which takes less than 3 s.
  const every = 800, patience = 1000;
  const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
  let lost = false, asking = false;

  const answers = async () => {
    try {
      await fetch("/healthz", { cache: "no-store", signal: AbortSignal.timeout(patience) });
      return true;
    } catch {
      return false;
    }
  };
  const ask = async () => {
    if (asking || document.hidden) return;
    asking = true;
    const there = await answers() || await answers();
    asking = false;
    if (there === !lost) return;
    lost = !there;
    $("lost").textContent = lost
      ? `The server does not answer since ${clock.format(new Date())}. What is shown may be old; what you typed is kept.` : "";
    explain();
    // A feed would wait up to a minute before it connects again, and what is shown is old.
    if (!lost && document.querySelector("[sse-connect]")) {
      htmx.ajax("GET", location.href, { target: "#main", select: "#main", swap: "outerHTML show:none" });
    }
  };
  setInterval(ask, every);
  for (const e of ["visibilitychange", "htmx:sendError", "htmx:sseError"]) document.addEventListener(e, ask);
  document.addEventListener("htmx:beforeRequest", (e) => {
    if (lost) e.preventDefault();
  });

  // The reply box: its text is kept in this tab until it is sent, and its button says why it is disabled.
  const draftOf = (text) => "draft " + text.form.getAttribute("action");

  const explain = () => {
    const text = $("text"), send = $("send"), why = $("why");
    if (!text || !send || !why) return;
    const busy = text.readOnly;
    why.textContent = busy ? "Sending…" : why.dataset.closed || (lost && "The server does not answer. Your text is kept.") ||
      (text.value.trim() ? "" : "Write something to send.");
    send.disabled = why.textContent !== "";
  };

  const restore = () => {
    const text = $("text");
    if (!text || !text.form.matches(".reply")) return;
    if (!text.value && !text.dataset.restored) text.value = sessionStorage.getItem(draftOf(text)) || "";
    text.dataset.restored = "1"; // once: a live update does not bring back what was deleted
    explain();
  };

  document.addEventListener("input", (e) => {
    const text = e.target;
    if (text.id === "at") showTime(text);
    if (!text.matches(".reply #text")) return;
    if (text.value) sessionStorage.setItem(draftOf(text), text.value);
    else sessionStorage.removeItem(draftOf(text));
    explain();
  });
  const sending = (on) => (e) => {
    if (!e.target.matches(".reply")) return;
    $("text").readOnly = on; // the answer replaces it
    explain();
  };
  document.addEventListener("htmx:beforeSend", sending(true));
  document.addEventListener("htmx:afterRequest", sending(false));
  document.addEventListener("htmx:beforeSwap", (e) => {
    const form = e.detail.requestConfig?.elt;
    if (form?.matches(".reply") && e.detail.xhr.status === 200) sessionStorage.removeItem(draftOf($("text"))); // sent
  });
  document.addEventListener("submit", (e) => {
    if (e.target.matches(".session")) sessionStorage.clear(); // another person may sign in
  });

  // The slider of a thread shows the time of the last message before its event.
  const showTime = (slider) => {
    const before = [...document.querySelectorAll(".msg")].filter((m) => Number(m.dataset.seq) <= Number(slider.value));
    const time = before.length ? before.at(-1).querySelector("time") : null;
    if (time) $("at-time").replaceChildren(format(time.cloneNode(), "full"));
  };

  // Times are rendered in UTC. The local time is shown instead, and UTC beside it or in the title.
  const day = new Intl.DateTimeFormat(undefined, { dateStyle: "full" });
  const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const utc = (at) => at.toISOString().replace("T", " ").replace(/\.\d+Z$/, " UTC");

  const format = (el, as) => {
    const at = new Date(el.dateTime);
    if (isNaN(at)) return el;
    el.title = `${full.format(at)}, which is ${utc(at)}`;
    if (at.getTimezoneOffset() === 0 && as === "full") return el;
    if (as === "clock") el.textContent = clock.format(at);
    if (as === "full") {
      const small = document.createElement("small");
      small.textContent = utc(at);
      el.replaceChildren(full.format(at), " ", small);
    }
    return el;
  };

  // The days of a thread are local days too.
  const separate = (list) => {
    for (const old of list.querySelectorAll(".day")) old.remove();
    let last = "";
    for (const m of list.querySelectorAll(".msg")) {
      const of = day.format(new Date(m.querySelector("time").dateTime));
      if (of === last) continue;
      const li = document.createElement("li");
      li.className = "day";
      li.textContent = last = of;
      m.before(li);
    }
  };

  // The answer for what was replaced meanwhile is dropped. It would not be seen, and what is preserved of the page, such
  // as a selection, would be moved to where it is not seen either. The events of what was replaced don't bubble to here.
  const late = (e) => {
    if (!e.detail.target.isConnected) e.preventDefault();
  };
  document.addEventListener("htmx:beforeSend", (e) => e.detail.elt.addEventListener("htmx:beforeOnLoad", late));

  // The rows of the overview that are selected.
  const picks = () => [...document.querySelectorAll(".pick input[name=page]")];
  const count = () => {
    const bar = $("batch");
    if (!bar) return;
    const list = picks(), n = list.filter((p) => p.checked).length;
    $("selected").textContent = n ? `${n} selected:` : "Select pages, then:";
    for (const button of bar.querySelectorAll("button")) button.disabled = !n;
    if ($("all")) Object.assign($("all"), { checked: n > 0 && n === list.length, indeterminate: n > 0 && n < list.length });
  };
  document.addEventListener("change", (e) => {
    if (e.target.id === "all") for (const p of picks()) p.checked = e.target.checked;
    if (e.target.closest(".pick")) count();
  });

  // Fields for a time have local time. What is sent has its zone, so that a URL means the same everywhere.
  const localField = (el) => {
    const at = new Date(el.dataset.at);
    at.setMinutes(at.getMinutes() - at.getTimezoneOffset());
    el.value = at.toISOString().slice(0, 16);
  };
  document.addEventListener("htmx:configRequest", (e) => {
    for (const el of e.detail.elt.querySelectorAll?.("input[type=datetime-local]") || []) {
      if (el.value) e.detail.parameters[el.name] = new Date(el.value).toISOString();
    }
  });

  // A button copies the text of the element before it.
  const copyable = (el) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy " + (el.dataset.copy || "this"));
    el.after(button);
  };
  const copy = async (text) => {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const area = document.createElement("textarea"); // without TLS there is no clipboard
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) throw new Error("not copied");
  };
  document.addEventListener("click", async (e) => {
    const button = e.target.closest(".copy");
    if (!button) return;
    const from = button.previousElementSibling;
    try {
      await copy(from.value ?? from.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not copied";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });

  const each = (root, selector, f) => {
    if (root.matches?.(selector)) f(root);
    root.querySelectorAll?.(selector).forEach(f);
  };
  document.addEventListener("htmx:load", (e) => {
    const root = e.detail.elt;
    each(root, "time", (el) => format(el, el.dataset.as));
    each(root, ".messages", separate);
    each(root, "input[data-at]", localField);
    each(root, ".zone", (el) => { el.textContent = ""; });
    each(root, "[data-copy]", (el) => {
      if (!el.nextElementSibling?.matches(".copy")) copyable(el);
    });
    restore();
    count();
  });

  const near = 120; // within this many px of the end, a thread counts as scrolled to its end

  const atEnd = (el) => el.scrollHeight - el.scrollTop - el.clientHeight < near;
  let follow = true;

  const toEnd = () => {
    const thread = $("thread");
    if (thread) thread.scrollTop = thread.scrollHeight;
  };

  document.addEventListener("htmx:beforeSwap", () => {
    const thread = $("thread");
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
    // Enter alone begins a new line, as the hint says.
    if (e.key === "Enter" && (e.ctrlKey || e.metaKey) && e.target.matches(".reply #text") && !$("send").disabled) {
      e.preventDefault();
      e.target.form.requestSubmit();
    }
  });

  document.addEventListener("DOMContentLoaded", () => {
    if (new Date().getTimezoneOffset() !== 0) $("zone").textContent = `Times are those of ${Intl.DateTimeFormat().resolvedOptions().timeZone}; UTC is beside them or in their titles.`;
    toEnd();
    ask();
  });
})();
