// Keeps a page true while it is open: it asks the server for the page again when something
// changed, and puts in what differs. All wording of the device's state comes from the server;
// only sending a bundle happens here.

const PIECE = 16 * 1024 * 1024; // bytes of one request
const WAITS = [1, 2, 4, 8, 15]; // seconds between tries
const AWAY = ["No answer from the device for", ". This page goes on by itself."];
const RESTART = ["Away for", "; a restart takes a minute or so."];
const $ = (selector, root = document) => root.querySelector(selector);
const sleep = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

// ---- Words and times

const FORMATS = {
  minute: { dateStyle: "medium", timeStyle: "short" },
  second: { dateStyle: "medium", timeStyle: "medium" },
};

function localise(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (Number.isNaN(moment.valueOf())) continue;
    const format = FORMATS[time.dataset.kind] || FORMATS.minute;
    time.textContent = new Intl.DateTimeFormat(undefined, format).format(moment);
    time.title = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" }).format(moment);
  }
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1023.5 && unit < units.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${unit && bytes < 99.95 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

function say(text) {
  const said = $("#said");
  if (said && text && said.textContent !== text) said.textContent = text;
}

// ---- The page, put up to date

// Makes `old` equal to `now` by as few changes as possible: what has the focus, an open
// <details> and what was typed stay.
function morph(old, now) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== now.data) old.data = now.data;
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE || old.dataset?.keep !== undefined) return;
  for (const { name, value } of [...now.attributes]) {
    if (old.getAttribute(name) !== value && !(name === "open" && old.tagName === "DETAILS")) {
      old.setAttribute(name, value);
    }
  }
  for (const { name } of [...old.attributes]) {
    if (!now.hasAttribute(name) && !(name === "open" && old.tagName === "DETAILS")) {
      old.removeAttribute(name);
    }
  }
  const byId = new Map([...old.children].filter((one) => one.id).map((one) => [one.id, one]));
  let at = old.firstChild;
  for (const next of [...now.childNodes]) {
    let found = next.id ? byId.get(next.id) : null;
    if (!found && at && same(at, next)) found = at;
    if (!found) {
      old.insertBefore(document.importNode(next, true), at);
      continue;
    }
    if (found === at) at = at.nextSibling;
    else old.insertBefore(found, at);
    morph(found, next);
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function same(old, now) {
  return old.nodeType === now.nodeType && old.nodeName === now.nodeName && (old.id || "") === (now.id || "");
}

function show(text, url) {
  const now = new DOMParser().parseFromString(text, "text/html");
  if (!now.body || !$("#main", now)) throw new Error("no page");
  localise(now);
  const before = { says: document.body.dataset.says, boot: document.body.dataset.boot };
  const focused = document.activeElement;
  document.title = now.title;
  morph(document.body, now.body);
  if (focused && focused !== document.body && !focused.isConnected) $("h1")?.focus();
  const told = document.body.dataset;
  if (told.says !== before.says) say(told.says);
  if (url) history.replaceState(null, "", url);
  document.dispatchEvent(new Event("shown"));
}

let asking = false;
let again = false;
let last = 0;

async function refresh() {
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  again = false;
  try {
    const headers = { "X-Live": "1" };
    const answer = await fetch(location.href, { headers, cache: "no-store", signal: AbortSignal.timeout(10000) });
    const where = new URL(answer.url);
    if (where.pathname === "/login" && location.pathname !== "/login") {
      location.assign(answer.url);
      return;
    }
    show(await answer.text(), null);
    here();
  } catch (error) {
    away();
  } finally {
    asking = false;
    last = performance.now();
    if (again) soon();
    plan();
  }
}

let timer = 0;

function plan() {
  clearTimeout(timer);
  const seconds = gone ? Math.min(3, 1 + tries / 4) : Number(document.body.dataset.refresh) || 0;
  if (seconds && !document.hidden) timer = setTimeout(refresh, seconds * 1000);
}

let waiting = 0;

function soon() {
  if (waiting) return;
  const wait = Math.max(0, 600 - (performance.now() - last));
  waiting = setTimeout(() => {
    waiting = 0;
    refresh();
  }, wait);
}

// ---- The device is away: it restarts, or the network is lost

let gone = 0;
let tries = 0;
let ticking = 0;

function since() {
  const key = `away ${document.body.dataset.boot}`;
  const known = Number(sessionStorage.getItem(key));
  if (known) return known;
  sessionStorage.setItem(key, String(Date.now()));
  return Date.now();
}

function away() {
  tries += 1;
  if (tries < 2) return;
  if (!gone) gone = restarting() ? since() : Date.now();
  strip();
}

const restarting = () => Boolean($("[data-phase=restarting]"));

function here() {
  tries = 0;
  gone = 0;
  if (restarting()) gone = 0;
  strip();
}

function strip() {
  const strip = $("#away");
  const waits = restarting();
  const shown = gone > 0; // a restart that has not begun yet has its headline
  if (strip.hidden !== !shown) strip.hidden = !shown;
  clearInterval(ticking);
  if (!shown) return;
  const text = $(".text", strip);
  const [first, second] = waits ? RESTART : AWAY;
  if (text.dataset.told !== first) {
    text.dataset.told = first;
    const clock = document.createElement("span");
    clock.className = "soft clock";
    clock.ariaHidden = "true";
    text.replaceChildren(`${first} `, clock, second);
  }
  const began = waits ? since() : gone;
  const tick = () => ($(".clock", text).textContent = duration((Date.now() - began) / 1000));
  tick();
  ticking = setInterval(tick, 1000);
}

// ---- What the server tells by itself. One stream a tab, and none while it is hidden: a browser
// has six connections to a server, for all its tabs.

let stream = null;
let streamed = "";

function listen() {
  const wanted = document.hidden ? "" : document.body.dataset.stream || "";
  const name = wanted.split("?")[0];
  if (stream && streamed === name && stream.readyState !== EventSource.CLOSED) return;
  stream?.close();
  stream = null;
  streamed = name;
  if (!wanted || !document.body.dataset.csrf) return;
  stream = new EventSource(wanted);
  const changed = () => soon();
  for (const kind of ["message", "status", "event", "job", "end"]) stream.addEventListener(kind, changed);
  stream.onerror = () => {
    if (stream && stream.readyState === EventSource.CLOSED) streamed = "";
    soon();
  };
}

document.addEventListener("shown", listen);
document.addEventListener("visibilitychange", () => {
  listen();
  if (!document.hidden) refresh();
});
window.addEventListener("online", () => refresh());
window.addEventListener("pageshow", (event) => {
  if (event.persisted) refresh();
});
window.addEventListener("pagehide", () => stream?.close());

// ---- Sending a bundle, in pieces; what is there already is not sent again

class Refused extends Error {}

async function call(method, path, body) {
  const headers = { "X-CSRF-Token": document.body.dataset.csrf, Accept: "application/json" };
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, {
    method, headers, body: body && JSON.stringify(body), cache: "no-store", signal: AbortSignal.timeout(30000),
  });
  const told = await answer.json().catch(() => ({}));
  if (answer.status >= 500 && answer.status !== 507 && answer.status !== 501) throw new Error(`HTTP ${answer.status}`);
  if (!answer.ok) {
    const problem = new Refused([told.detail, told.hint].filter(Boolean).join(" ") || `HTTP ${answer.status}`);
    problem.status = answer.status;
    throw problem;
  }
  return told;
}

function put(path, piece, offset, sent, stop) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("PUT", path);
    request.setRequestHeader("X-CSRF-Token", document.body.dataset.csrf);
    request.setRequestHeader("Upload-Offset", String(offset));
    request.setRequestHeader("Content-Type", "application/octet-stream");
    let quiet = 0;
    const heard = () => {
      clearTimeout(quiet);
      quiet = setTimeout(() => request.abort(), 30000);
    };
    request.upload.onprogress = (event) => {
      heard();
      sent(event.loaded);
    };
    request.onload = () => {
      const told = JSON.parse(request.responseText || "{}");
      if (request.status < 300) done(told);
      else if ([409, 429, 500, 502, 503, 408].includes(request.status)) failed(new Error(`HTTP ${request.status}`));
      else failed(new Refused([told.detail, told.hint].filter(Boolean).join(" ") || `HTTP ${request.status}`));
    };
    request.onerror = () => failed(new Error("network"));
    request.onabort = () => failed(new Error("aborted"));
    request.onloadend = () => clearTimeout(quiet);
    stop.addEventListener("abort", () => request.abort(), { once: true });
    heard();
    request.send(piece);
  });
}

class Sending {
  constructor(form, file) {
    this.form = form;
    this.file = file;
    this.panel = $("#sending");
    this.stopped = new AbortController();
    this.points = [];
  }

  async run() {
    document.documentElement.classList.add("sending");
    this.panel.hidden = false;
    $(".name", this.panel).textContent = `${this.file.name}, ${size(this.file.size)}`;
    $("progress", this.panel).max = this.file.size;
    $(".trouble", this.panel).textContent = "";
    $(".cancel", this.panel).onclick = () => this.cancel();
    $("h2", this.panel).focus();
    this.leave = (event) => event.preventDefault();
    window.addEventListener("beforeunload", this.leave);
    try {
      const max = Number(this.form.dataset.max);
      if (!this.file.size) throw new Refused("The file is empty.");
      if (max && this.file.size > max) throw new Refused(`It has ${size(this.file.size)}; ${size(max)} are taken at most.`);
      await this.begin();
      await this.send();
      this.figures("All of it is here. Looking into it…");
      const job = await this.patiently(() => call("POST", "/api/v1/jobs", { kind: "inspect", upload: this.id }));
      this.end();
      location.assign(`/jobs/${job.id}`);
    } catch (error) {
      this.end();
      if (this.stopped.signal.aborted) return this.close();
      $(".trouble", this.panel).textContent = error.message;
      const button = $(".cancel", this.panel);
      button.textContent = "Choose again";
      button.onclick = () => this.close();
      button.focus();
    }
  }

  end() {
    window.removeEventListener("beforeunload", this.leave);
  }

  close() {
    $(".cancel", this.panel).textContent = "Cancel";
    this.panel.hidden = true;
    document.documentElement.classList.remove("sending");
    this.form.reset();
    refresh();
    $("#bundle")?.focus();
  }

  async begin() {
    const { part, partSize, partName } = this.form.dataset;
    if (part && Number(partSize) === this.file.size && partName === this.file.name) {
      this.id = part;
      this.offset = (await this.patiently(() => call("GET", `/api/v1/uploads/${part}`))).offset;
      return;
    }
    const wanted = { size: this.file.size, sha256: null, name: this.file.name };
    const made = await this.patiently(() => call("POST", "/api/v1/uploads", wanted));
    this.id = made.id;
    this.offset = made.offset;
  }

  async send() {
    const path = `/api/v1/uploads/${this.id}`;
    while (this.offset < this.file.size) {
      const piece = this.file.slice(this.offset, this.offset + PIECE);
      let lost = false;
      const told = await this.patiently(async () => {
        if (lost) {
          this.offset = (await call("GET", path)).offset;
          lost = false;
          return { offset: this.offset };
        }
        lost = true;
        const answer = await put(path, piece, this.offset, (count) => this.progress(this.offset + count), this.stopped.signal);
        lost = false;
        return answer;
      });
      this.offset = told.offset;
      this.progress(this.offset);
    }
  }

  // Tries until it works; only what the server refuses ends it.
  async patiently(action) {
    for (let round = 0; ; round += 1) {
      if (this.stopped.signal.aborted) throw new Error("cancelled");
      try {
        const done = await action();
        $(".trouble", this.panel).textContent = "";
        return done;
      } catch (error) {
        if (error instanceof Refused || this.stopped.signal.aborted) throw error;
        await this.file.slice(0, 1).arrayBuffer().catch(async () => {
          await this.drop();  // nobody can go on with it
          throw new Refused("The file cannot be read any more: it was changed, moved, or its medium is gone.");
        });
        this.points = [];
        const wait = WAITS[Math.min(round, WAITS.length - 1)];
        $(".trouble", this.panel).textContent = "The connection was lost. It goes on where it stopped as soon as the device answers.";
        await Promise.race([sleep(wait), new Promise((done) => window.addEventListener("online", done, { once: true }))]);
      }
    }
  }

  progress(count) {
    $("progress", this.panel).value = count;
    const now = performance.now();
    this.points.push([now, count]);
    while (this.points.length > 2 && now - this.points[0][0] > 8000) this.points.shift();
    const [then, before] = this.points[0];
    const rate = now - then > 800 ? ((count - before) * 1000) / (now - then) : 0;
    let text = `${size(count)} of ${size(this.file.size)}`;
    if (rate > 0) text += `, ${size(rate)}/s, ${duration((this.file.size - count) / rate)} left`;
    this.figures(text);
  }

  figures(text) {
    $(".figures", this.panel).textContent = text;
  }

  async cancel() {
    this.stopped.abort();
    await this.drop();
  }

  async drop() {
    if (this.id) await call("DELETE", `/api/v1/uploads/${this.id}`).catch(() => {});
  }
}

function uploads() {
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.id !== "upload") return;
    event.preventDefault();
    const [file] = $("#bundle", form).files;
    if (file) new Sending(form, file).run();
  });
  const over = (event) => {
    if (!$("#upload") || !event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    document.documentElement.classList.toggle("over", event.type === "dragover");
  };
  for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, over);
  document.addEventListener("drop", (event) => {
    const form = $("#upload");
    const file = event.dataTransfer?.files[0];
    if (form && file && !document.documentElement.classList.contains("sending")) new Sending(form, file).run();
  });
}

// A second press of a button that takes a moment is no second wish.
document.addEventListener("submit", (event) => {
  if (event.target.id === "upload" || event.target.method !== "post") return;
  const button = event.submitter;
  setTimeout(() => button && (button.disabled = true));
});

localise(document);
uploads();
listen();
strip();
plan();
