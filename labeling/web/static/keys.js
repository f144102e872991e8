// Keys for every action. An element says which keys work it: <button data-key="5 t">. Without this file all
// forms still work: it only presses what is on the page.
"use strict";

// The page of the next item is the response to the last one's form: loading it again shall send nothing.
if (document.getElementById("answer")) history.replaceState(null, "", location.href);

const typing = (element) =>
  element instanceof HTMLTextAreaElement ||
  element instanceof HTMLSelectElement ||
  (element instanceof HTMLInputElement && !["radio", "checkbox", "file", "submit"].includes(element.type));

const wantsKey = (key) =>
  [...document.querySelectorAll("[data-key]")].find((e) => e.dataset.key.split(" ").includes(key));

function press(element) {
  if (element instanceof HTMLTextAreaElement) {
    element.focus();
  } else if (element.tagName === "SUMMARY") {
    const details = element.parentElement;
    details.open = !details.open;
    const first = details.querySelector("input:not([type=hidden]), button");
    if (details.open && first) first.focus();
  } else {
    element.click();
  }
}

// Ranking: one output is current; a digit ranks it and goes on to the next one without a rank.
const list = document.getElementById("ranks");
const outputs = () => (list ? [...list.querySelectorAll(".rank")] : []);
const rankOf = (output) => output.querySelector("input:checked")?.value ?? "";

function setRank(output, value) {
  const mark = [...output.querySelectorAll("input")].find((input) => input.value === value);
  if (mark) mark.checked = true;
  return Boolean(mark);
}

function makeCurrent(output) {
  for (const other of outputs()) other.classList.toggle("current", other === output);
  output?.scrollIntoView({ block: "nearest" });
}

function rankKey(key) {
  const all = outputs();
  const at = Math.max(0, all.findIndex((output) => output.classList.contains("current")));
  if (key === "ArrowDown" || key === "ArrowUp") {
    const step = key === "ArrowDown" ? 1 : all.length - 1;
    makeCurrent(all[(at + step) % all.length]);
    return true;
  }
  if (!/^[0-9]$/.test(key)) return false;
  if (setRank(all[at], key === "0" ? "" : key) && key !== "0") {
    const after = [...all.slice(at + 1), ...all.slice(0, at)];
    makeCurrent(after.find((output) => rankOf(output) === "") ?? all[at]);
  }
  return true;
}

document.addEventListener("keydown", (event) => {
  const target = event.target;
  if (event.repeat || event.altKey || event.metaKey) return;
  if (event.key === "Enter" && event.ctrlKey && target.form) {
    event.preventDefault();
    target.form.requestSubmit();
    return;
  }
  if (event.ctrlKey) return;
  if (typing(target)) {
    if (event.key === "Escape") target.blur();
    return;
  }
  if (event.key === "Escape") {
    for (const details of document.querySelectorAll("details[open]:not(.fold)")) details.open = false;
    return;
  }
  if (list && rankKey(event.key)) {
    event.preventDefault();
    target.blur?.();
    return;
  }
  // Enter on a focused control works that control, not the page's main button
  if (event.key === "Enter" && target.matches("a, button, summary")) return;
  const element = wantsKey(event.key);
  if (element) {
    event.preventDefault();
    press(element);
  }
});

// A form is sent once; the server would keep one label of two anyway.
document.addEventListener("submit", (event) => {
  if (event.target.method !== "post") return;
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "yes";
});
window.addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.sent;
});

// Dragging outputs into order ranks them from the top; an extra to buttons and digits.
let dragged = null;
if (list) {
  makeCurrent(outputs()[0]);
  list.addEventListener("dragstart", (event) => {
    dragged = event.target.closest(".rank");
    dragged.classList.add("dragged");
    event.dataTransfer.effectAllowed = "move";
  });
  list.addEventListener("dragover", (event) => {
    const over = event.target.closest(".rank");
    if (!dragged || !over || over === dragged) return;
    event.preventDefault();
    const box = over.getBoundingClientRect();
    over[event.clientY > box.top + box.height / 2 ? "after" : "before"](dragged);
  });
  list.addEventListener("drop", (event) => event.preventDefault());
  list.addEventListener("dragend", () => {
    dragged?.classList.remove("dragged");
    dragged = null;
    outputs().forEach((output, place) => setRank(output, String(place + 1)));
  });
  list.addEventListener("focusin", (event) => makeCurrent(event.target.closest(".rank")));
}
