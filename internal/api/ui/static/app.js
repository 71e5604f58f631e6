// The dashboard works without this file. It adds times relative to now, keys, copying, the
// theme, and a transcript that follows its recording.
(() => {
  const root = document.documentElement;
  root.dataset.js = "1";
  const stored = (name, value) => {
    try { return value === undefined ? localStorage.getItem(name) : localStorage.setItem(name, value); } catch { return null; }
  };
  const theme = stored("neuronmill.theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;

  function toggleTheme() {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    stored("neuronmill.theme", root.dataset.theme);
  }

  // relative writes a time as people say it.
  function relative(at) {
    const s = Math.round((at - Date.now()) / 1000), a = Math.abs(s);
    const text = a < 5 ? "now" : a < 90 ? a + " s" : a < 5400 ? Math.round(a / 60) + " min" : a < 129600 ? Math.round(a / 3600) + " h" : Math.round(a / 86400) + " days";
    return text === "now" ? text : s > 0 ? "in " + text : text + " ago";
  }
  function times() {
    for (const t of document.querySelectorAll("time[datetime]")) {
      const at = new Date(t.dateTime), text = relative(at);
      if (t.textContent !== text) t.textContent = text;
      const title = at.toLocaleString();
      if (t.title !== title) t.title = title;
    }
  }

  let paused = false;
  document.addEventListener("htmx:sse:before:message", e => { if (paused) e.preventDefault(); });
  document.addEventListener("htmx:sse:after:message", times);
  document.addEventListener("htmx:after:swap", times);

  function pause() {
    paused = !paused;
    const note = document.getElementById("paused");
    if (note) note.hidden = !paused;
  }

  let went = 0; // when g was pressed
  const places = {o: "/", t: "/tasks", b: "/batches", s: "/schedules", g: "/gates", e: "/errors", u: "/usage", w: "/workers", h: "/webhooks", l: "/log"};
  function keys(e) {
    if (e.ctrlKey || e.metaKey || e.altKey || stored("neuronmill.keys") === "off") return;
    if (e.target.closest("input:not([type=checkbox]), textarea, select")) {
      if (e.key === "Escape") e.target.blur();
      return;
    }
    const base = document.body.dataset.base;
    if (Date.now() - went < 1500 && places[e.key]) {
      went = 0;
      const link = document.querySelector(`nav a[href="${base}${places[e.key]}"]`);
      if (link) { e.preventDefault(); link.click(); }
      return;
    }
    const rows = [...document.querySelectorAll("tbody tr[data-row]")];
    let at = rows.findIndex(r => r.classList.contains("at"));
    const move = to => {
      rows[at]?.classList.remove("at");
      rows[to]?.classList.add("at");
      rows[to]?.scrollIntoView({block: "nearest"});
      rows[to]?.querySelector("a")?.focus({preventScroll: true});
    };
    switch (e.key) {
      case "/": document.querySelector("[type=search]")?.focus(); break;
      case "g": went = Date.now(); break;
      case "j": move(Math.min(at + 1, rows.length - 1)); break;
      case "k": move(Math.max(at - 1, 0)); break;
      case "x": rows[at]?.querySelector("[type=checkbox]")?.click(); break;
      case "t": toggleTheme(); break;
      case "r": pause(); break;
      case "?": document.getElementById("help")?.showModal(); break;
      default: return;
    }
    e.preventDefault();
  }

  document.addEventListener("keydown", keys);
  document.addEventListener("click", e => {
    const b = e.target.closest("[data-do]");
    if (!b) return;
    if (b.dataset.do === "theme") toggleTheme();
    if (b.dataset.do === "help") document.getElementById("help").showModal();
    if (b.dataset.do === "close") b.closest("dialog").close();
    if (b.dataset.do === "copy") {
      const text = document.getElementById(b.dataset.of)?.textContent ?? "";
      navigator.clipboard?.writeText(text).then(() => { b.textContent = "Copied"; setTimeout(() => { b.textContent = "Copy"; }, 1500); });
    }
    if (b.dataset.do === "seek") {
      const audio = document.querySelector("audio");
      if (audio) { audio.currentTime = Number(b.dataset.at); audio.play(); }
    }
  });
  document.addEventListener("change", e => {
    if (e.target.matches("[data-all]")) {
      for (const box of document.querySelectorAll("tbody [type=checkbox]")) box.checked = e.target.checked;
    }
    if (e.target.matches("[data-keys]")) stored("neuronmill.keys", e.target.checked ? "on" : "off");
    if (e.target.matches("[data-go]")) e.target.form.submit();
  });
  document.addEventListener("DOMContentLoaded", () => {
    times();
    setInterval(times, 1000);
    const box = document.querySelector("[data-keys]");
    if (box) box.checked = stored("neuronmill.keys") !== "off";
    const audio = document.querySelector("audio"), segments = [...document.querySelectorAll("[data-from]")];
    audio?.addEventListener("timeupdate", () => {
      for (const s of segments) s.classList.toggle("at", audio.currentTime >= s.dataset.from && audio.currentTime < s.dataset.to);
    });
  });
})();
