"use strict";
// One pair after the other. A judgement is kept in this browser until the server has said that it is on the disk, and is
// sent again until then; its id lets the server know it when it comes twice.

const KEYS = { 1: "left", 2: "right", 3: "tie", 4: "both_bad" };
const LONGEST_PAUSE = 2000; // ms between two tries to reach the server
const at = (id) => document.getElementById(id);
const token = new URLSearchParams(location.search).get("token") || "";
let labeller = localStorage.getItem("labeller");
let pair = null;
let shownAt = 0;
let isBusy = false;

// What a reader could not see, or what would rearrange the text, stands as its number.
const visible = (text) =>
  text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
    (char) => `<U+${char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}>`);

function say(text, isAlarm = false) {
  at("status").textContent = text;
  at("status").classList.toggle("alarm", isAlarm);
}

function setBusy(value) {
  isBusy = value;
  for (const button of document.querySelectorAll("main button")) button.disabled = value;
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function ask(path, body) {
  for (let wait = 100; ; wait = Math.min(wait * 2, LONGEST_PAUSE)) {
    try {
      const response = await fetch(path, {
        method: "POST",
        headers: { "Content-Type": "application/json", Authorization: `Bearer ${token}` },
        body: JSON.stringify({ labeller, ...body }),
      });
      if (response.status < 500) return { isOk: response.ok, answer: await response.json() };
    } catch (error) {
      // the server is away: the pause below, and again
    }
    say("The server does not answer; your judgement is kept here and sent when it is back.", true);
    await pause(wait);
  }
}

const outbox = () => JSON.parse(localStorage.getItem("outbox") || "null");

async function send() {
  const kept = outbox();
  labeller = kept.labeller;
  const { isOk, answer } = await ask("/judge", kept);
  localStorage.removeItem("outbox");
  return isOk ? answer : refused(answer);
}

async function refused(answer) {
  const told = typeof answer.detail === "string" ? answer.detail : "The server could not take that.";
  const { isOk, answer: next } = await ask("/next", {});
  say(told, true);
  return isOk ? next : { progress: null, pair: null, isRefused: true };
}

function show(answer) {
  pair = answer.pair;
  if (answer.progress) {
    const { own, done, wanted } = answer.progress;
    at("bar").max = wanted;
    at("bar").value = done;
    at("own").textContent = `${own} by you`;
    at("all").textContent = `${done} of ${wanted}`;
  }
  at("judging").hidden = pair === null;
  at("finished").hidden = pair !== null || Boolean(answer.isRefused);
  for (const part of ["prompt", "left", "right"]) {
    at(part).textContent = pair === null ? "" : visible(pair[part]);
    at(part).scrollTop = 0;
  }
  shownAt = performance.now();
}

async function work(request) {
  if (isBusy) return;
  setBusy(true);
  say("");
  show(await request());
  setBusy(false);
}

const next = () => work(async () => {
  const { isOk, answer } = await ask("/next", {});
  return isOk ? answer : refused(answer);
});

const undo = () => work(async () => {
  const { isOk, answer } = await ask("/undo", {});
  if (isOk) say("Your last judgement is taken back.");
  return isOk ? answer : refused(answer);
});

function judge(choice) {
  if (pair === null || isBusy) return;
  const seconds = (performance.now() - shownAt) / 1000;
  const judgement = { id: crypto.randomUUID(), pair: pair.id, choice, seconds, labeller };
  localStorage.setItem("outbox", JSON.stringify(judgement));
  work(send);
}

function begin() {
  at("sign-in").hidden = true;
  at("who").textContent = labeller;
  at("sign-out").hidden = false;
  return outbox() ? work(send) : next();
}

function signIn() {
  for (const id of ["judging", "finished", "sign-out"]) at(id).hidden = true;
  at("who").textContent = "";
  at("sign-in").hidden = false;
  at("name").focus();
}

at("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  labeller = at("name").value.trim();
  localStorage.setItem("labeller", labeller);
  begin();
});
at("sign-out").addEventListener("click", () => {
  localStorage.removeItem("labeller");
  signIn();
});
for (const button of document.querySelectorAll("[data-choice]")) {
  button.addEventListener("click", () => judge(button.dataset.choice));
}
for (const id of ["undo", "undo-last"]) at(id).addEventListener("click", undo);
at("again").addEventListener("click", next);
document.addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT" || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.key in KEYS) judge(KEYS[event.key]);
  if (event.key === "u") undo();
});

labeller ? begin() : signIn();
