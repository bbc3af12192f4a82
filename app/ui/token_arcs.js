// A text as the model sees it, one chip per token; the chosen token's attention as arcs and colours. All weights are
// here already, so choosing another token asks nobody.

const MOST_ARCS = 12, LEAST = 0.01;

export default function ({ data, parentElement }) {
  const box = parentElement.querySelector(".tokens");
  const said = parentElement.querySelector(".said");
  const text = [data.first, ...data.tokens].join("\u0000");
  if (box.text !== text) {
    box.text = text;
    box.querySelectorAll(".chip").forEach((chip) => chip.remove());
    data.tokens.forEach((label, number) => {
      const chip = document.createElement("button");
      chip.type = "button";
      chip.className = "chip";
      chip.dir = "auto";
      chip.textContent = label.length > 24 ? `${label.slice(0, 23)}…` : label;
      chip.title = `${number + data.first}: ${label}`;
      chip.onclick = () => { box.chosen = number; box.redraw(); };
      box.append(chip);
    });
    box.chosen = data.tokens.length - 1;
  }
  const raw = data.weights ? bytes(data.weights) : null;
  const weights = raw ? new Uint16Array(raw.buffer) : null; // row by row, as shares of 65,535
  box.redraw = () => redraw(box, said, data, weights);
  box.watch ??= new ResizeObserver(() => box.redraw());
  box.watch.observe(box);
  box.redraw();
  if (box.shownOf !== box.text) { // of a new text the chosen token, its last, is in sight
    box.shownOf = box.text;
    box.parentElement.scrollTop = box.clientHeight;
  }
  return () => { box.watch?.disconnect(); box.watch = null; };
}

function redraw(box, said, data, weights) {
  const chips = [...box.querySelectorAll(".chip")];
  const svg = box.querySelector("svg");
  const length = data.tokens.length, chosen = box.chosen;
  svg.replaceChildren();
  const share = new Float64Array(length);
  for (let other = 0; weights && other < length; other++) {
    share[other] = weights[data.backwards ? other * length + chosen : chosen * length + other] / 65535;
  }
  const largest = Math.max(...share, 1e-9);
  chips.forEach((chip, number) => {
    chip.style.setProperty("--share", `${Math.round(70 * share[number] / largest)}%`);
    chip.setAttribute("aria-pressed", number === chosen);
  });
  if (!weights) return;
  const strongest = [...share.keys()].filter((n) => share[n] >= LEAST).sort((a, b) => share[b] - share[a]);
  const home = box.getBoundingClientRect();
  svg.setAttribute("width", box.clientWidth);
  svg.setAttribute("height", box.clientHeight); // scrollHeight holds the svg itself, and would never shrink
  const top = (chip) => {
    const place = chip.getBoundingClientRect();
    return [place.left - home.left + place.width / 2, place.top - home.top + 2];
  };
  for (const other of strongest.slice(0, MOST_ARCS)) {
    const [x0, y0] = top(chips[chosen]), [x1, y1] = top(chips[other]);
    const rise = 8 + Math.min(26, Math.abs(x1 - x0) / 7);
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", other === chosen
      ? `M ${x0 - 5} ${y0} C ${x0 - 9} ${y0 - 16}, ${x0 + 9} ${y0 - 16}, ${x0 + 5} ${y0}`
      : `M ${x0} ${y0} C ${x0} ${Math.min(y0, y1) - rise}, ${x1} ${Math.min(y0, y1) - rise}, ${x1} ${y1}`);
    path.setAttribute("stroke-width", (0.75 + 4 * share[other]).toFixed(2));
    path.setAttribute("opacity", (0.35 + 0.65 * share[other]).toFixed(2));
    svg.append(path);
  }
  const listed = strongest.slice(0, 6).map((n) => `${apart(data.tokens[n])} (${n + data.first}) ${share[n].toFixed(3)}`).join("   ");
  const verb = data.backwards ? "is looked at by" : "looks at";
  said.textContent = `${apart(data.tokens[chosen])} (${chosen + data.first}) ${verb}   ${listed || "nothing above 0.01"}`;
}

// A token that is written from the right must not turn the rest of the line round: Unicode's isolates.
function apart(label) {
  return `\u2068${label}\u2069`;
}
