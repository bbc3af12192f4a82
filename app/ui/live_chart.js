// Lines that grow while somebody looks at them, on one canvas.
//
// Streamlit calls the default function at every poll and at every change of theme, with the same
// parentElement. What the person did to the picture must outlive that: charts are remembered by their
// element, and the zoomed range by its group, so that charts of one run zoom together.

const charts = new WeakMap(); // parentElement -> Chart
const groups = new Map(); // group -> { from, to, members }

export default function ({ parentElement, data }) {
  const figure = parentElement.querySelector("figure");
  let chart = charts.get(parentElement);
  if (!chart || chart.figure !== figure) {
    chart?.destroy();
    chart = new Chart(figure);
    charts.set(parentElement, chart);
  }
  chart.update(data);
  return () => chart.destroy();
}

const MARGIN = { left: 58, right: 14, top: 10, bottom: 38 }; // CSS pixels round the plot
const APART = 9; // points at least this many pixels apart are also shown as dots

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.canvas = figure.querySelector("canvas");
    this.readout = figure.querySelector(".readout");
    this.hidden = new Set(); // names of lines switched off in the legend
    this.hover = null; // pointer position in CSS pixels
    this.drag = null;
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.canvas);
    this.listen();
  }

  destroy() {
    this.observer.disconnect();
    this.view?.members.delete(this);
  }

  // ---- data ---------------------------------------------------------------------------------------

  update(data) {
    this.options = data.options;
    const { group } = this.options;
    if (!groups.has(group)) groups.set(group, { from: null, to: null, members: new Set() });
    if (this.view !== groups.get(group)) {
      this.view?.members.delete(this);
      this.view = groups.get(group);
      this.view.members.add(this);
    }
    this.lines = unpack(data.points, data.lines, this.options.smoothing);
    this.canvas.style.height = `${this.options.height}px`;
    this.figure.querySelector(".title").textContent = this.options.title;
    this.figure.querySelector(".note").textContent = this.options.note;
    this.canvas.setAttribute("aria-label", this.describe());
    this.legend();
    this.draw();
    if (!this.figure.querySelector(".table").hidden) this.table();
  }

  shown() {
    return this.lines.filter((line) => !this.hidden.has(line.name) && line.x.length);
  }

  // ---- the picture --------------------------------------------------------------------------------

  draw() {
    const { canvas, options } = this;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (!options || !width || !height) return;
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const colours = (this.colours = theme(canvas));
    this.recolour();
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = `12px ${colours.font}`;
    const box = { left: MARGIN.left, top: MARGIN.top, right: width - MARGIN.right, bottom: height - MARGIN.bottom };
    const lines = this.shown();
    const x = (this.x = scale(this.xRange(lines), [box.left, box.right], options.log_x));
    const y = scale(this.yRange(lines, x.domain), [box.bottom, box.top], options.log_y);
    canvas.dataset.from = x.domain[0]; // what a test, or a curious person, can read
    canvas.dataset.to = x.domain[1];
    if (lines.length) axes(pen, box, x, y, options, colours);
    else {
      label(pen, options.empty, (box.left + box.right) / 2, (box.top + box.bottom) / 2, colours.quiet, "center");
      return;
    }
    pen.save();
    pen.beginPath();
    pen.rect(box.left - 4, box.top - 4, box.right - box.left + 8, box.bottom - box.top + 8);
    pen.clip();
    for (const line of lines) this.paint(pen, line, x, y);
    for (const mark of options.markers) vertical(pen, box, x(mark.x), mark.label, colours.event, [3, 3]);
    for (const reference of options.references) horizontal(pen, box, y(reference.y), reference.label, colours.quiet);
    if (this.drag?.kind === "select") {
      pen.globalAlpha = 0.15;
      pen.fillStyle = colours.text;
      pen.fillRect(this.drag.start, box.top, this.drag.now - this.drag.start, box.bottom - box.top);
      pen.globalAlpha = 1;
    }
    this.point(pen, box, lines, x, y);
    pen.restore();
  }

  paint(pen, line, x, y) {
    const colour = this.colours.line(line);
    const [first, last] = visible(line.x, x.domain);
    pen.strokeStyle = pen.fillStyle = colour;
    pen.setLineDash(line.dashed ? [5, 4] : []);
    pen.lineJoin = "round";
    const trace = (values) => {
      pen.beginPath();
      for (let i = first; i <= last; i++) pen.lineTo(x(line.x[i]), y(values[i]));
      pen.stroke();
    };
    if (line.banded) {
      pen.globalAlpha = 0.18;
      pen.beginPath();
      for (let i = first; i <= last; i++) pen.lineTo(x(line.x[i]), y(line.high[i]));
      for (let i = last; i >= first; i--) pen.lineTo(x(line.x[i]), y(line.low[i]));
      pen.fill();
    }
    if (line.smooth) {
      pen.globalAlpha = line.faint ? 0.15 : 0.45;
      pen.lineWidth = 1;
      trace(line.value);
    }
    pen.globalAlpha = line.faint ? 0.45 : 1;
    pen.lineWidth = line.faint ? 1 : 1.8;
    trace(line.smooth ?? line.value);
    if ((last - first) * APART < x.range[1] - x.range[0] && !line.faint) {
      for (let i = first; i <= last; i++) dot(pen, x(line.x[i]), y((line.smooth ?? line.value)[i]), 2.4);
    }
    pen.globalAlpha = 1;
    pen.setLineDash([]);
  }

  xRange(lines) {
    if (this.view.from !== null) return [this.view.from, this.view.to];
    return this.whole(lines);
  }

  whole(lines = this.shown()) {
    // Never the reference of another chart's data: each chart shows all of its own x.
    let low = Infinity, high = -Infinity;
    for (const { x } of lines) {
      low = Math.min(low, x[0]);
      high = Math.max(high, x[x.length - 1]);
    }
    if (low > high) return [this.options.log_x ? 1 : 0, 1];
    if (this.options.log_x) low = Math.max(low, this.options.x_kind === "seconds" ? 0.1 : 1);
    else if (low < 0.25 * high) low = Math.min(low, 0);
    return high > low ? [low, high] : [low, low + 1];
  }

  yRange(lines, domain) {
    let low = Infinity, high = -Infinity;
    const take = (value) => {
      if (!Number.isFinite(value) || (this.options.log_y && value <= 0)) return;
      low = Math.min(low, value);
      high = Math.max(high, value);
    };
    for (const line of lines) {
      const [first, last] = visible(line.x, domain, false);
      for (let i = first; i <= last; i++) take(line.low[i]), take(line.high[i]);
    }
    if (this.view.from === null) for (const reference of this.options.references) take(reference.y);
    if (low > high) return this.options.log_y ? [1, 10] : [0, 1];
    if (this.options.log_y) {
      const pad = Math.max((high / low) ** 0.06, 1.02);
      return [low / pad, high * pad];
    }
    const pad = (high - low) * 0.07 || Math.abs(high) * 0.1 || 1;
    return [low >= 0 && low - pad < 0 ? 0 : low - pad, high + pad];
  }

  // ---- what stands under the pointer --------------------------------------------------------------

  point(pen, box, lines, x, y) {
    const { readout, hover } = this;
    const inside = hover && !this.drag && hover.x >= box.left && hover.x <= box.right;
    readout.hidden = !inside;
    if (!inside) return;
    const wanted = x.invert(hover.x);
    let at = null;
    for (const line of lines) {
      const here = line.x[nearest(line.x, wanted)];
      if (at === null || Math.abs(here - wanted) < Math.abs(at - wanted)) at = here;
    }
    const rows = lines.map((line) => {
      const i = nearest(line.x, at);
      dot(pen, x(line.x[i]), y((line.smooth ?? line.value)[i]), 3.5, this.colours.line(line));
      return { line, i };
    });
    vertical(pen, box, x(at), "", this.colours.quiet, []);
    readout.replaceChildren(element("b", xText(at, this.options)), ...rows.map(({ line, i }) => this.reading(line, i, at)));
    const left = x(at) > (box.left + box.right) / 2;
    readout.style.left = left ? "" : `${x(at) + 12}px`;
    readout.style.right = left ? `${this.canvas.clientWidth - x(at) + 12}px` : "";
  }

  reading(line, i, at) {
    const row = element("div");
    const swatch = element("i");
    swatch.style.background = this.colours.line(line);
    let text = `${line.name} ${number(line.value[i])}`;
    if (line.high[i] > line.low[i]) text += ` (${number(line.low[i])} to ${number(line.high[i])})`;
    if (line.smooth) text += `, smoothed ${number(line.smooth[i])}`;
    if (line.x[i] !== at) text += ` at ${xText(line.x[i], this.options)}`;
    row.append(swatch, text);
    return row;
  }

  legend() {
    const names = this.lines.map((line) => line.name);
    const box = this.figure.querySelector(".legend");
    if (JSON.stringify(names) !== this.named) {
      this.named = JSON.stringify(names);
      box.replaceChildren(...this.lines.map((line) => {
        const button = element("button");
        button.type = "button";
        button.title = "Show or hide this line";
        button.onclick = () => {
          this.hidden.has(line.name) ? this.hidden.delete(line.name) : this.hidden.add(line.name);
          this.legend();
          this.draw();
        };
        button.append(element("i"), element("span"));
        return button;
      }));
    }
    [...box.children].forEach((button, at) => {
      const line = this.lines[at];
      const end = line.value[line.value.length - 1];
      const name = this.lines.length > 1 ? line.name : ""; // a lone line is what the title says
      button.querySelector("span").textContent = line.faint || end === undefined ? line.name : `${name} ${number(end)}`.trim();
      button.setAttribute("aria-pressed", String(!this.hidden.has(line.name)));
    });
  }

  recolour() {
    this.figure.querySelectorAll(".legend button").forEach((button, at) => {
      button.querySelector("i").style.background = this.colours.line(this.lines[at]);
    });
  }

  // ---- for those who do not see the picture, and for those who want the numbers -------------------

  describe() {
    const parts = this.lines.filter((line) => line.x.length && !line.faint).map((line) => {
      const last = line.x.length - 1;
      return `${line.name}: ${number(line.value[last])} at ${xText(line.x[last], this.options)}, ` +
        `lowest ${number(least(line.low))}, highest ${number(-least(line.high.map((v) => -v)))}.`;
    });
    const text = parts.length ? parts.join(" ") : this.options.empty;
    return `${this.options.title}, ${this.options.y_label}. ${text} Arrow keys move, plus and minus zoom, 0 shows all.`;
  }

  table() {
    const lines = this.shown();
    const longest = lines.reduce((a, b) => (a.x.length >= b.x.length ? a : b), { x: [] });
    const count = Math.min(25, longest.x.length);
    const head = element("tr");
    head.append(element("th", this.options.x_label), ...lines.map((line) => element("th", line.name)));
    const rows = Array.from({ length: count }, (_, k) => {
      const at = longest.x[Math.round((k * (longest.x.length - 1)) / Math.max(count - 1, 1))];
      const row = element("tr");
      row.append(element("td", xText(at, this.options)), ...lines.map((line) => element("td", number(line.value[nearest(line.x, at)]))));
      return row;
    });
    const table = element("table");
    table.append(head, ...rows);
    this.figure.querySelector(".table").replaceChildren(table);
  }

  save(kind) {
    const name = this.options.title.toLowerCase().replace(/[^a-z0-9]+/g, "-");
    if (kind === "csv") {
      const rows = [["line", this.options.x_label, "low", "high", "mean"].join(",")];
      for (const line of this.lines) {
        const quoted = `"${line.name.replaceAll('"', '""')}"`;
        for (let i = 0; i < line.x.length; i++) rows.push([quoted, line.x[i], line.low[i], line.high[i], line.value[i]].join(","));
      }
      download(new Blob([rows.join("\n") + "\n"], { type: "text/csv" }), `${name}.csv`);
      return;
    }
    const sheet = document.createElement("canvas"); // with the page's ground behind it: a canvas is transparent
    sheet.width = this.canvas.width;
    sheet.height = this.canvas.height;
    const pen = sheet.getContext("2d");
    pen.fillStyle = this.colours.ground;
    pen.fillRect(0, 0, sheet.width, sheet.height);
    pen.drawImage(this.canvas, 0, 0);
    sheet.toBlob((blob) => download(blob, `${name}.png`));
  }

  // ---- hands --------------------------------------------------------------------------------------

  zoom(from, to) {
    const [low, high] = this.whole();
    if (from === null || to - from >= high - low) from = to = null; // all of it, and it goes on growing
    else if (to - from < (high - low) * 1e-4) return;
    this.view.from = from;
    this.view.to = to;
    for (const chart of this.view.members) chart.draw();
  }

  zoomAbout(centre, factor) {
    const [from, to] = this.x.domain;
    this.zoom(centre - (centre - from) * factor, centre + (to - centre) * factor);
  }

  move(pixels) {
    const [from, to] = this.x.range;
    this.zoomKept(this.x.invert(from + pixels), this.x.invert(to + pixels));
  }

  zoomKept(from, to) {
    // Panning keeps the width: it stops at the ends instead of zooming out.
    const [low, high] = this.whole();
    if (this.view.from === null || from < low - (to - from) * 0.02 || to > high + (to - from) * 0.02) return;
    this.zoom(from, to);
  }

  listen() {
    const { canvas, figure } = this;
    canvas.onpointerdown = (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.drag = { kind: event.shiftKey ? "pan" : "select", start: event.offsetX, now: event.offsetX };
    };
    canvas.onpointermove = (event) => {
      this.hover = { x: event.offsetX, y: event.offsetY };
      if (this.drag?.kind === "pan") this.move(this.drag.now - event.offsetX);
      if (this.drag) this.drag.now = event.offsetX;
      this.draw();
    };
    canvas.onpointerup = () => {
      const drag = this.drag;
      this.drag = null;
      if (drag?.kind === "select" && Math.abs(drag.now - drag.start) > 6) {
        const ends = [drag.start, drag.now].map((p) => this.x.invert(Math.min(Math.max(p, this.x.range[0]), this.x.range[1])));
        this.zoom(Math.min(...ends), Math.max(...ends));
      } else this.draw();
    };
    canvas.onpointercancel = () => { this.drag = null; this.draw(); };
    canvas.onpointerleave = () => { this.hover = null; this.draw(); };
    canvas.ondblclick = () => this.zoom(null);
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls the page, as everywhere
      event.preventDefault();
      this.zoomAbout(this.x.invert(event.offsetX), event.deltaY > 0 ? 1.25 : 0.8);
    }, { passive: false });
    canvas.onkeydown = (event) => {
      const [from, to] = this.x.domain;
      const centre = (from + to) / 2, quarter = (this.x.range[1] - this.x.range[0]) / 4;
      if (event.key === "+" || event.key === "=") this.zoomAbout(centre, 0.7);
      else if (event.key === "-") this.zoomAbout(centre, 1 / 0.7);
      else if (event.key === "ArrowLeft") this.move(-quarter);
      else if (event.key === "ArrowRight") this.move(quarter);
      else if (event.key === "0" || event.key === "Escape") this.zoom(null);
      else return;
      event.preventDefault();
    };
    figure.querySelector(".all").onclick = () => this.zoom(null);
    figure.querySelector(".png").onclick = () => this.save("png");
    figure.querySelector(".csv").onclick = () => this.save("csv");
    figure.querySelector(".numbers").onclick = (event) => {
      const box = figure.querySelector(".table");
      box.hidden = !box.hidden;
      event.currentTarget.setAttribute("aria-expanded", String(!box.hidden));
      this.table();
    };
  }
}
