// What a chart is made of: arrays, scales, axes, words. No state; live_chart.py puts it behind live_chart.js.

// ---- arrays -----------------------------------------------------------------------------------------

function unpack(table, descriptions, smoothing) {
  // Rows come sorted by line and by x; `line` says which line a row belongs to.
  const column = (name) => table.getChild(name)?.toArray() ?? [];
  const owner = column("line"), x = column("x"), low = column("low"), high = column("high"), value = column("value");
  let at = 0;
  return descriptions.map((description, number) => {
    const start = at;
    while (at < owner.length && owner[at] === number) at++;
    const part = (values) => Array.from(values.slice(start, at));
    const line = { ...description, x: part(x), low: part(low), high: part(high), value: part(value) };
    line.banded = line.low.some((v, i) => v < line.high[i]);
    line.smooth = smoothing > 0 && !line.exact && line.x.length > 2 ? smoothed(line.value, smoothing) : null;
    return line;
  });
}

function smoothed(values, keep) {
  // Exponential moving average; dividing by 1 - keepⁿ takes out the pull towards the zero it starts from.
  let average = 0, weight = 1;
  return values.map((value) => {
    average = keep * average + (1 - keep) * value;
    weight *= keep;
    return average / (1 - weight);
  });
}

function nearest(sorted, wanted) {
  let low = 0, high = sorted.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] <= wanted) low = middle; else high = middle;
  }
  return Math.abs(sorted[low] - wanted) <= Math.abs(sorted[high] - wanted) ? low : high;
}

function visible(x, [from, to], neighbours = true) {
  // Indices inside the range, with one neighbour on each side so that lines run to the edge.
  let first = nearest(x, from), last = nearest(x, to);
  while (first < x.length - 1 && x[first] < from) first++;
  while (last > 0 && x[last] > to) last--;
  return neighbours ? [Math.max(first - 1, 0), Math.min(last + 1, x.length - 1)] : [first, last];
}

function least(values) {
  return values.reduce((a, b) => Math.min(a, b), Infinity);
}

// ---- scales and axes --------------------------------------------------------------------------------

function scale(domain, range, log) {
  const into = log ? (v) => Math.log10(Math.max(v, 1e-30)) : (v) => v;
  const [a, b] = domain.map(into);
  const map = (v) => range[0] + ((into(v) - a) / (b - a || 1)) * (range[1] - range[0]);
  map.invert = (pixel) => {
    const t = a + ((pixel - range[0]) / (range[1] - range[0])) * (b - a);
    return log ? 10 ** t : t;
  };
  return Object.assign(map, { domain, range, log });
}

function ticks({ domain: [low, high], log }, count) {
  if (log && high / low > 12) {
    const found = [];
    const steps = Math.log10(high / low) > 4 ? [1] : [1, 2, 5];
    for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
      for (const s of steps) if (s * 10 ** e >= low && s * 10 ** e <= high) found.push(s * 10 ** e);
    return found;
  }
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const at = (step) => {
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step || 0); // never -0
    return found;
  };
  const steps = [5, 2, 1, 0.5].map((m) => m * power).filter((step) => step < rough); // in case a coarse one shows too little
  const coarse = at(power * [1, 2, 5, 10].find((m) => m * power >= rough));
  return coarse.length > 1 ? coarse : at(steps[0] ?? power);
}

function axes(pen, box, x, y, options, colours) {
  pen.lineWidth = 1;
  pen.strokeStyle = colours.grid;
  const yTicks = ticks(y, Math.max(2, (box.bottom - box.top) / 42));
  const digits = decimals(yTicks), tiny = Math.max(...yTicks.map(Math.abs)) < 0.01;
  for (const tick of yTicks) {
    const at = Math.round(y(tick)) + 0.5;
    pen.beginPath();
    pen.moveTo(box.left, at);
    pen.lineTo(box.right, at);
    pen.stroke();
    label(pen, tiny ? exponent(tick) : axisNumber(tick, digits), box.left - 7, at, colours.quiet, "right");
  }
  for (const tick of ticks(x, Math.max(2, (box.right - box.left) / 80)))
    label(pen, xTick(tick, options), x(tick), box.bottom + 12, colours.quiet, "center");
  label(pen, options.x_label, (box.left + box.right) / 2, box.bottom + 28, colours.quiet, "center");
  pen.save();
  pen.translate(10, (box.top + box.bottom) / 2);
  pen.rotate(-Math.PI / 2);
  label(pen, options.y_label, 0, 0, colours.quiet, "center");
  pen.restore();
}

function vertical(pen, box, x, text, colour, dash) {
  pen.strokeStyle = colour;
  pen.lineWidth = 1;
  pen.setLineDash(dash);
  pen.beginPath();
  pen.moveTo(x, box.top);
  pen.lineTo(x, box.bottom);
  pen.stroke();
  pen.setLineDash([]);
  const near = x + pen.measureText(text).width + 8 > box.right; // then it would run out of the picture
  if (text) label(pen, text, near ? x - 4 : x + 4, box.top + 8, colour, near ? "right" : "left");
}

function horizontal(pen, box, y, text, colour) {
  pen.strokeStyle = colour;
  pen.lineWidth = 1;
  pen.setLineDash([6, 5]);
  pen.beginPath();
  pen.moveTo(box.left, y);
  pen.lineTo(box.right, y);
  pen.stroke();
  pen.setLineDash([]);
  label(pen, text, box.right - 4, y + 10, colour, "right");
}

function label(pen, text, x, y, colour, align) {
  pen.fillStyle = colour;
  pen.textAlign = align;
  pen.textBaseline = "middle";
  pen.fillText(text, x, y);
}

function dot(pen, x, y, radius, colour) {
  if (colour) pen.fillStyle = colour;
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
}

// ---- words ------------------------------------------------------------------------------------------

function decimals(values) {
  const step = values.length > 1 ? Math.min(...values.slice(1).map((v, i) => v - values[i])) : Math.abs(values[0] ?? 1);
  return step > 0 ? Math.min(Math.max(0, Math.ceil(-Math.log10(step) - 1e-9)), 8) : 0;
}

function axisNumber(value, digits) {
  const size = Math.abs(value);
  if (size >= 10_000) return short(value);
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function exponent(value) {
  return value === 0 ? "0" : value.toExponential(2).replace(/\.?0+e/, "e").replace("e-", "e−");
}

function number(value) {
  if (value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return short(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  if (size !== 0 && size < 1e-3) return exponent(value);
  return String(Number(value.toPrecision(4)));
}

function short(value) {
  const size = Math.abs(value);
  const [unit, by] = size >= 1e9 ? ["B", 1e9] : size >= 1e6 ? ["M", 1e6] : ["k", 1e3];
  return `${Number((value / by).toPrecision(3))} ${unit}`;
}

function duration(seconds) {
  if (seconds < 120) return `${Number(seconds.toPrecision(3))} s`;
  if (seconds < 7200) return `${Number((seconds / 60).toPrecision(3))} min`;
  return `${Number((seconds / 3600).toPrecision(3))} h`;
}

function xTick(value, { x_kind }) {
  if (x_kind === "seconds") return duration(value);
  return Math.abs(value) >= 10_000 ? short(value) : Number(value.toPrecision(6)).toLocaleString("en");
}

function xText(value, options) {
  if (options.x_kind === "seconds") return duration(value);
  const text = value >= 1e6 ? short(value) : Math.round(value).toLocaleString("en");
  return options.x_kind === "step" ? `step ${text}` : `${text} ${options.x_kind}`;
}

// ---- page -------------------------------------------------------------------------------------------

function theme(canvas) {
  const style = getComputedStyle(canvas);
  const read = (name) => style.getPropertyValue(`--st-${name}`).trim();
  const series = read("chart-categorical-colors").split(",");
  const text = read("text-color");
  return {
    text,
    font: read("font"),
    ground: read("background-color"),
    grid: read("border-color"),
    quiet: read("gray-text-color") || text,
    event: series[3],
    line: ({ colour }) => series[colour % series.length],
  };
}

function element(tag, text = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function download(blob, name) {
  const link = element("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
