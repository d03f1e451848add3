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

const LEAST_PIXELS_A_SECOND = 110;
const MOST_PIXELS_A_SECOND = 800; // of a recording of a fraction of a second, before the reader zooms
const LEAST_WIDTH = 240;
const MOST_CANVAS_PIXELS = 16000; // what browsers allow
const GAP = 8;
const HEIGHTS = { words: 36, waveform: 56, spectrogram: 128, axis: 20 };
const SYMBOL_HEIGHT = 13;
const MAGMA = [[0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122], [229, 80, 100], [251, 135, 97], [254, 194, 135], [252, 253, 191]];

function decode(matrix) {
  const text = atob(matrix.codes);
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

function magma(code) {
  const place = (code / 255) * (MAGMA.length - 1);
  const low = Math.min(Math.floor(place), MAGMA.length - 2);
  return MAGMA[low].map((value, channel) => value + (place - low) * (MAGMA[low + 1][channel] - value));
}

class Picture {
  constructor(worst) {
    this.worst = worst;
    for (const matrix of [worst.waveform, worst.spectrogram, ...worst.posteriors.passages]) matrix.values = decode(matrix);
    this.zoom = 1;
    this.labels = element("canvas");
    this.canvas = element("canvas", { class: "drawing" });
    this.playhead = element("div", { class: "playhead" });
    this.inside = element("div", { class: "inside" }, this.canvas, this.playhead);
    this.tracks = element("div", { class: "tracks" }, this.inside);
    this.audio = element("audio", { src: worst.audio, preload: "auto" });
    this.play = element("button", { type: "button", class: "play" }, "▶ Play");
    this.readout = element("span", { class: "readout" });
    this.heights = { ...HEIGHTS, posteriors: SYMBOL_HEIGHT * worst.posteriors.symbols.length };
    this.tops = {};
    let top = 0;
    for (const name of ["words", "waveform", "spectrogram", "posteriors", "axis"]) {
      this.tops[name] = top;
      top += this.heights[name] + GAP;
    }
    this.height = top - GAP;
    this.listen();
  }

  get node() {
    const utterance = report.utterances[this.worst.utterance];
    const [out, into] = [["−", 1 / 1.5, "Zoom out"], ["+", 1.5, "Zoom in"]].map(([text, factor, label]) => {
      const button = element("button", { type: "button", "aria-label": label }, text);
      button.addEventListener("click", () => this.zoomBy(factor));
      return button;
    });
    const controls = element("div", { class: "controls" }, this.play, out, into, this.readout);
    const isCut = this.worst.seconds < utterance.seconds - 0.1;
    const cut = isCut ? [element("p", { class: "quiet" }, `The first ${this.worst.seconds} s.`)] : [];
    return element(
      "div",
      { class: "row" },
      headOf(utterance), alignedWords(utterance.aligned), controls, ...cut,
      element("div", { class: "picture" }, this.labels, this.tracks), this.audio,
    );
  }

  listen() {
    this.play.addEventListener("click", () => (this.audio.paused ? this.start() : this.audio.pause()));
    this.audio.addEventListener("play", () => {
      this.play.textContent = "❚❚ Pause";
      requestAnimationFrame(() => this.follow());
    });
    for (const event of ["pause", "ended"]) this.audio.addEventListener(event, () => (this.play.textContent = "▶ Play"));
    this.inside.addEventListener("click", (event) => {
      this.audio.currentTime = this.timeAt(event);
      this.start();
    });
    this.inside.addEventListener("pointermove", (event) => this.say(this.timeAt(event)));
  }

  start() {
    for (const other of document.querySelectorAll("audio")) if (other !== this.audio) other.pause();
    this.audio.play().catch((error) => (this.readout.textContent = error.message)); // a pause that came too soon, too
  }

  timeAt(event) {
    return Math.max(0, (event.clientX - this.canvas.getBoundingClientRect().left) / this.scale);
  }

  follow() {
    const x = this.audio.currentTime * this.scale;
    this.playhead.style.transform = `translateX(${x}px)`;
    this.say(this.audio.currentTime);
    if (this.audio.paused) return;
    const view = this.tracks;
    if (x < view.scrollLeft || x > view.scrollLeft + view.clientWidth - 40) view.scrollLeft = x - 40;
    requestAnimationFrame(() => this.follow());
  }

  say(seconds) {
    const { symbols, passages } = this.worst.posteriors;
    const word = this.worst.words.find(([, start, end]) => start <= seconds && seconds < end);
    const texts = [`${seconds.toFixed(2)} s`];
    if (word) texts.push(`“${word[0]}”, confidence ${word[4].toFixed(2)}`);
    for (const { start, step, columns, values } of passages) {
      const frame = Math.floor((seconds - start) / step);
      if (frame < 0 || frame >= columns) continue;
      const likely = symbols
        .map((symbol, row) => [symbol, values[row * columns + frame] / 255])
        .filter(([, probability]) => probability >= 0.01)
        .sort((a, b) => b[1] - a[1]);
      texts.push(...likely.slice(0, 3).map(([symbol, probability]) => `${symbol} ${probability.toFixed(2)}`));
    }
    this.readout.textContent = texts.join(" · ");
  }

  zoomBy(factor) {
    const middle = (this.tracks.scrollLeft + this.tracks.clientWidth / 2) / this.scale;
    this.zoom = Math.min(16, Math.max(1, this.zoom * factor));
    this.draw();
    this.tracks.scrollLeft = middle * this.scale - this.tracks.clientWidth / 2;
  }

  draw() {
    const room = this.tracks.clientWidth;
    const { seconds } = this.worst;
    const fitting = Math.min(room, Math.max(LEAST_WIDTH, MOST_PIXELS_A_SECOND * seconds));
    const width = Math.max(fitting, LEAST_PIXELS_A_SECOND * seconds) * this.zoom;
    this.width = Math.min(Math.floor(width), MOST_CANVAS_PIXELS);
    this.scale = this.width / seconds;
    const context = this.prepare(this.canvas, this.width);
    this.drawPosteriors(context);
    this.drawSpectrogram(context);
    this.drawWaveform(context);
    this.drawWords(context);
    this.drawAxis(context);
    this.drawLabels();
    this.follow();
  }

  prepare(canvas, width) {
    const ratio = Math.min(window.devicePixelRatio || 1, MOST_CANVAS_PIXELS / width);
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(this.height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${this.height}px`;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    return context;
  }

  drawWaveform(context) {
    const { columns, step, values } = this.worst.waveform;
    const y = (code) => this.tops.waveform + this.heights.waveform * (0.5 - (code - 128) / 254);
    const x = (column) => (column + 0.5) * step * this.scale;
    context.fillStyle = context.strokeStyle = colour("accent");
    context.beginPath(); // along the greatest samples, and back along the least
    for (let column = 0; column < columns; column += 1) context.lineTo(x(column), y(values[columns + column]));
    for (let column = columns - 1; column >= 0; column -= 1) context.lineTo(x(column), y(values[column]));
    context.closePath();
    context.fill();
    context.stroke();
  }

  drawSpectrogram(context) {
    const { rows, columns, start, step, values } = this.worst.spectrogram;
    const image = new ImageData(columns, rows);
    values.forEach((code, place) => image.data.set([...magma(code), 255], 4 * place));
    const small = element("canvas", { width: columns, height: rows });
    small.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(small, start * this.scale, this.tops.spectrogram, columns * step * this.scale, this.heights.spectrogram);
  }

  drawPosteriors(context) {
    const { symbols, passages } = this.worst.posteriors;
    symbols.forEach((symbol, row) => {
      const top = this.tops.posteriors + row * SYMBOL_HEIGHT;
      context.globalAlpha = row % 2 ? 0.35 : 0.7;
      context.fillStyle = colour("tint");
      context.fillRect(0, top, this.width, SYMBOL_HEIGHT);
      context.fillStyle = colour(row === 0 ? "quiet" : "accent");
      for (const { columns, start, step, values } of passages)
        for (let column = 0; column < columns; column += 1) {
          context.globalAlpha = values[row * columns + column] / 255;
          if (context.globalAlpha > 0.02)
            context.fillRect((start + column * step) * this.scale, top + 1, step * this.scale + 0.3, SYMBOL_HEIGHT - 2);
        }
    });
    context.globalAlpha = 1;
    context.fillStyle = colour("text");
    if (passages.length === 0) context.fillText("no speech was found", 6, this.tops.posteriors + SYMBOL_HEIGHT / 2);
  }

  drawWords(context) {
    const line = this.heights.words / 2;
    this.worst.words.forEach(([text, start, end, said], place) => {
      const kind = kindOf(said, text);
      const [left, right] = [start * this.scale, Math.max(end * this.scale, start * this.scale + 2)];
      const top = this.tops.words + (place % 2) * line;
      context.fillStyle = colour(kind === "right" ? "tint" : `${kind}-back`);
      context.fillRect(left, top, right - left, line - 2);
      context.strokeStyle = context.fillStyle = colour(kind === "right" ? "quiet" : kind);
      context.globalAlpha = 0.35;
      for (const x of [left, right]) context.fillRect(x, top, 1, this.tops.axis - top);
      context.globalAlpha = 1;
      context.strokeRect(left + 0.5, top + 0.5, right - left - 1, line - 3);
      context.fillStyle = colour("text");
      const half = context.measureText(text).width / 2;
      const middle = Math.min(Math.max((left + right) / 2, half + 1), this.width - half - 1);
      context.fillText(text, middle - half, top + line / 2 - 1);
    });
  }

  drawAxis(context) {
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10].find((seconds) => seconds * this.scale >= 50) ?? 30;
    context.fillStyle = colour("quiet");
    for (let tick = 0; tick * step < this.worst.seconds; tick += 1) {
      const x = tick * step * this.scale;
      context.fillRect(x, this.tops.axis, 1, 4);
      context.fillText(`${+(tick * step).toFixed(1)} s`, x + 3, this.tops.axis + 10);
    }
  }

  drawLabels() {
    const width = this.labels.parentElement.clientWidth - this.tracks.clientWidth;
    const context = this.prepare(this.labels, width);
    context.fillStyle = colour("quiet");
    context.textAlign = "right";
    const middle = (name) => this.tops[name] + this.heights[name] / 2;
    context.fillText("words", width - 6, middle("words"));
    context.fillText("wave", width - 6, middle("waveform"));
    context.fillText("mel", width - 6, middle("spectrogram"));
    this.worst.posteriors.symbols.forEach((symbol, row) =>
      context.fillText(symbol, width - 6, this.tops.posteriors + (row + 0.5) * SYMBOL_HEIGHT),
    );
  }
}

function startPictures() {
  const section = document.getElementById("worst");
  if (report.worst.length === 0) return section.remove();
  const pictures = report.worst.map((worst) => new Picture(worst));
  section.append(...pictures.map((picture) => picture.node));
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
