// Builds the page of a report from the JSON in #data. Texts become text nodes, never markup.
"use strict";

const report = JSON.parse(document.getElementById("data").textContent);
const PAGE_ROWS = 100;
const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawn(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const percent = (rate) => (rate === null ? "–" : `${(100 * rate).toFixed(1)} %`);
const interval = (range) => (range === null ? "–" : `${(100 * range[0]).toFixed(1)} to ${(100 * range[1]).toFixed(1)} %`);
const duration = (seconds) =>
  seconds < 60 ? `${seconds.toFixed(1)} s` : seconds < 3600 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`;
const shortPath = (path) => path.split(/[\\/]/).filter(Boolean).slice(-2).join("/");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// ---- error rates ----

function writeSummary() {
  const [model, manifest] = [shortPath(report.model), shortPath(report.manifest)];
  document.getElementById("title").textContent = `${model} on ${manifest}`;
  document.title = `${percent(report.wer)} WER · ${model} on ${manifest}`;
  const created = new Date(report.created).toLocaleString();
  const about = [`model ${report.model}`, `manifest ${report.manifest}`, created, `speechkit ${report.version}`];
  document.getElementById("about").textContent = about.join(" · ");
  const figures = {
    [`WER (${interval(report.wer_interval)})`]: percent(report.wer),
    [`CER (${interval(report.cer_interval)})`]: percent(report.cer),
    substituted: report.substitutions,
    deleted: report.deletions,
    inserted: report.insertions,
    words: report.words,
    utterances: report.utterances.length,
    audio: duration(report.audio_seconds),
  };
  const summary = document.getElementById("summary");
  for (const [name, value] of Object.entries(figures))
    summary.firstElementChild.append(
      element("div", { class: "figure" }, element("b", {}, String(value)), element("span", { class: "quiet" }, name)),
    );
  const rates = [["WER", report.wer, report.wer_interval], ["CER", report.cer, report.cer_interval]];
  const drawRates = () => document.getElementById("rates").replaceChildren(rateFigure(rates));
  drawRates();
  window.addEventListener("resize", drawRates);
  if (report.failures.length > 0) {
    const list = element("ul", { class: "quiet" }, ...report.failures.map((line) => element("li", {}, line)));
    summary.append(element("h3", {}, "Files that could not be read"), list);
  }
}

function rateFigure(rates) {
  const most = Math.max(...rates.map(([, , range]) => range[1]), 0.01);
  const step = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2].find((size) => most / size <= 5) ?? Math.ceil(most / 5);
  const end = Math.ceil(most / step - 1e-9) * step;
  const width = Math.min(document.getElementById("rates").clientWidth, 760);
  const x = (rate) => 44 + (rate / end) * (width - 70);
  const label = rates.map(([name, rate, range]) => `${name} ${percent(rate)}, 95 % interval ${interval(range)}`).join("; ");
  const figure = drawn("svg", { width, height: 92, role: "img", "aria-label": label });
  for (let tick = 0; tick <= end + step / 2; tick += step)
    figure.append(
      drawn("line", { class: "axis", x1: x(tick), x2: x(tick), y1: 4, y2: 66 }),
      drawn("text", { x: x(tick), y: 84, "text-anchor": "middle" }, `${+(100 * tick).toFixed(1)} %`),
    );
  rates.forEach(([name, rate, range], place) => {
    const y = 20 + 30 * place;
    figure.append(
      drawn("text", { x: 0, y: y + 4 }, name),
      drawn("line", { class: "interval", x1: x(range[0]), x2: x(range[1]), y1: y, y2: y }),
      ...range.map((bound) => drawn("line", { class: "interval", x1: x(bound), x2: x(bound), y1: y - 6, y2: y + 6 })),
      drawn("circle", { class: "mean", cx: x(rate), cy: y, r: 5 }),
    );
  });
  return figure;
}

function rateBar(rate, range, most) {
  const x = (value) => (100 * value) / most;
  return drawn(
    "svg",
    { viewBox: "0 0 100 14", preserveAspectRatio: "none", "aria-hidden": "true" },
    drawn("rect", { class: "mean", x: 0, y: 2, width: x(rate), height: 10, opacity: 0.35 }),
    drawn("line", { class: "interval", x1: x(range[0]), x2: x(range[1]), y1: 7, y2: 7, "vector-effect": "non-scaling-stroke" }),
  );
}

function writeGroups(id, name, groups) {
  const section = document.getElementById(id);
  if (groups.length < 2) return section.remove();
  const most = Math.max(...groups.map((group) => group.wer_interval?.[1] ?? 0), 1e-6);
  const titles = [name, "WER", "95 % interval", "CER", "words", "utterances", "audio"];
  const body = groups.map((group) => {
    const cells = [
      group.name, percent(group.wer), interval(group.wer_interval), percent(group.cer),
      group.words, group.utterances, duration(group.audio_seconds),
    ].map((value) => element("td", {}, String(value)));
    const bar = element("td", { class: "bar" }, ...(group.wer === null ? [] : [rateBar(group.wer, group.wer_interval, most)]));
    return element("tr", {}, ...cells, bar);
  });
  const head = element("tr", {}, ...titles.map((title) => element("th", {}, title)), element("th", { class: "bar" }));
  section.lastElementChild.append(element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
}

// ---- alignments ----

// An aligned word is a string where it is right, else [said, heard], of which one is null if it was deleted or inserted.

function kindOf(said, heard) {
  if (said === heard) return "right";
  return heard === null ? "deletion" : said === null ? "insertion" : "substitution";
}

const pairOf = (word) => (typeof word === "string" ? [word, word] : word);

function asText(word) {
  const [said, heard] = pairOf(word);
  return { right: said, deletion: `− ${said}`, insertion: `+ ${heard}`, substitution: `${said} → ${heard}` }[kindOf(said, heard)];
}

function alignedWords(aligned) {
  const line = element("div", { class: "words" });
  for (const [said, heard] of aligned.map(pairOf)) {
    const kind = kindOf(said, heard);
    const parts = {
      right: () => [said],
      deletion: () => ["− ", element("del", {}, said)],
      insertion: () => ["+ ", element("ins", {}, heard)],
      substitution: () => [element("del", {}, said), " → ", element("ins", {}, heard)],
    };
    line.append(element("span", { class: kind }, ...parts[kind]()), " ");
  }
  return line;
}

function headOf(utterance) {
  const { errors, words, speaker, seconds, id, confidence } = utterance;
  const sure = confidence === null ? null : `confidence ${confidence.toFixed(2)}`;
  const facts = [speaker, duration(seconds), sure].filter((fact) => fact !== null).join(" · ");
  return element(
    "div",
    { class: "head" },
    element("span", { class: "badge" }, `${errors} ${errors === 1 ? "error" : "errors"} in ${words} ${words === 1 ? "word" : "words"}`),
    element("b", { style: "overflow-wrap: anywhere" }, id),
    element("span", { class: "quiet" }, facts),
  );
}

function writeConfusions() {
  const kinds = { substituted: report.substituted, deleted: report.deleted, inserted: report.inserted };
  const section = document.getElementById("confusions");
  if (Object.values(kinds).every((words) => words.length === 0)) return section.remove();
  for (const [name, words] of Object.entries(kinds)) {
    if (words.length === 0) continue;
    const list = element("ul", { class: "confusions" });
    for (const [said, heard, count] of words) {
      const choose = element("button", { type: "button" }, alignedWords([[said, heard]]), String(count));
      choose.addEventListener("click", () => showOnly(asText([said, heard])));
      list.append(element("li", {}, choose));
    }
    section.lastElementChild.append(
      element("div", {}, element("h3", {}, name), element("div", { class: "scroll" }, list)),
    );
  }
}

// ---- all utterances ----

const filter = document.getElementById("filter");
const order = document.getElementById("order");
const wrong = document.getElementById("wrong");
const more = document.getElementById("more");
let shownRows = PAGE_ROWS;

function prepareRows() {
  report.utterances.forEach((utterance, place) => {
    const texts = utterance.aligned.map(asText);
    const [said, heard] = [0, 1].map((side) => utterance.aligned.map((word) => pairOf(word)[side]).filter(Boolean));
    utterance.place = place;
    utterance.doubt = 1 - (utterance.confidence ?? 0);
    utterance.rate = utterance.errors / Math.max(utterance.words, 1);
    const lines = [utterance.id, utterance.speaker ?? "", said.join(" "), heard.join(" "), ` ${texts.join("  ")} `];
    utterance.searched = lines.join("\n").toLowerCase();
  });
}

function writeRows() {
  const wanted = filter.value.toLowerCase();
  const key = order.value;
  const chosen = report.utterances.filter((item) => item.searched.includes(wanted) && !(wrong.checked && item.errors === 0));
  chosen.sort((a, b) => (key === "place" ? 0 : b[key] - a[key]) || a.place - b.place);
  document.getElementById("count").textContent = `${chosen.length} of ${report.utterances.length}`;
  const rows = chosen.slice(0, shownRows).map((item) => element("div", { class: "row" }, headOf(item), alignedWords(item.aligned)));
  document.getElementById("rows").replaceChildren(...rows);
  more.hidden = chosen.length <= shownRows;
}

function showOnly(text) {
  filter.value = ` ${text} `;
  filter.dispatchEvent(new Event("input"));
  document.getElementById("all").scrollIntoView({ behavior: "smooth" });
}

function startRows() {
  prepareRows();
  for (const control of [filter, order, wrong])
    control.addEventListener("input", () => {
      shownRows = PAGE_ROWS;
      writeRows();
    });
  more.addEventListener("click", () => {
    shownRows += PAGE_ROWS;
    writeRows();
  });
  writeRows();
}

// ---- pictures of the worst utterances ----

function startPictures() {
  const section = document.getElementById("worst");
  if (report.worst.length === 0) return section.remove();
  const pictures = report.worst.map((recording) => {
    const utterance = report.utterances[recording.utterance];
    const isCut = recording.seconds < utterance.seconds - 0.1;
    const note = isCut ? [element("p", { class: "quiet" }, `The first ${recording.seconds} s.`)] : [];
    const picture = new Picture(recording);
    section.append(
      element("div", { class: "row" }, headOf(utterance), alignedWords(utterance.aligned), ...note, ...picture.nodes),
    );
    return picture;
  });
  const drawAll = () => pictures.forEach((picture) => picture.draw());
  drawAll();
  window.addEventListener("resize", drawAll);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
}

writeSummary();
writeGroups("speakers", "speaker", [...report.per_speaker].sort((a, b) => (b.wer ?? 0) - (a.wer ?? 0)));
writeGroups("lengths", "seconds", report.per_length);
writeConfusions();
for (const legend of document.querySelectorAll(".legend"))
  legend.append(alignedWords(["right", ["said", "heard"], ["deleted", null], [null, "inserted"]]));
startRows();
startPictures();
