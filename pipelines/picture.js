// A recording that is drawn and can be played, from what picture.py gives. `element`, `colour` and `kindOf` are report.js's.
"use strict";

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
  constructor(recording) {
    this.recording = recording;
    for (const matrix of [recording.waveform, recording.spectrogram, ...recording.posteriors.passages]) matrix.values = decode(matrix);
    this.zoom = 1;
    this.labels = element("canvas");
    this.canvas = element("canvas", { class: "drawing" });
    this.playhead = element("div", { class: "playhead" });
    this.inside = element("div", { class: "inside" }, this.canvas, this.playhead);
    this.tracks = element("div", { class: "tracks" }, this.inside);
    this.audio = element("audio", { src: recording.audio, preload: "auto" });
    this.play = element("button", { type: "button", class: "play" }, "▶ Play");
    this.readout = element("span", { class: "readout" });
    this.heights = { ...HEIGHTS, posteriors: SYMBOL_HEIGHT * recording.posteriors.symbols.length };
    this.tops = {};
    let top = 0;
    for (const name of ["words", "waveform", "spectrogram", "posteriors", "axis"]) {
      this.tops[name] = top;
      top += this.heights[name] + GAP;
    }
    this.height = top - GAP;
    this.listen();
  }

  get nodes() {
    const [out, into] = [["−", 1 / 1.5, "Zoom out"], ["+", 1.5, "Zoom in"]].map(([text, factor, label]) => {
      const button = element("button", { type: "button", "aria-label": label }, text);
      button.addEventListener("click", () => this.zoomBy(factor));
      return button;
    });
    const controls = element("div", { class: "controls" }, this.play, out, into, this.readout);
    return [controls, element("div", { class: "picture" }, this.labels, this.tracks), this.audio];
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
    const { symbols, passages } = this.recording.posteriors;
    const word = this.recording.words.find(([, start, end]) => start <= seconds && seconds < end);
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
    const { seconds } = this.recording;
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
    const { columns, step, values } = this.recording.waveform;
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
    const { rows, columns, start, step, values } = this.recording.spectrogram;
    const image = new ImageData(columns, rows);
    values.forEach((code, place) => image.data.set([...magma(code), 255], 4 * place));
    const small = element("canvas", { width: columns, height: rows });
    small.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(small, start * this.scale, this.tops.spectrogram, columns * step * this.scale, this.heights.spectrogram);
  }

  drawPosteriors(context) {
    const { symbols, passages } = this.recording.posteriors;
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
    this.recording.words.forEach(([text, start, end, said], place) => {
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
    for (let tick = 0; tick * step < this.recording.seconds; tick += 1) {
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
    this.recording.posteriors.symbols.forEach((symbol, row) =>
      context.fillText(symbol, width - 6, this.tops.posteriors + (row + 0.5) * SYMBOL_HEIGHT),
    );
  }
}
