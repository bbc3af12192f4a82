// All heads of a model as small pictures on one canvas: rows are layers, columns are heads. Click or arrow keys choose.

const GAP = 4, LEFT = 30, TOP = 34;

export default function (component) {
  const { data, parentElement } = component;
  const canvas = parentElement.querySelector("canvas");
  const said = parentElement.querySelector(".said");
  canvas.component = component; // handlers are bound once, and look up what is newest
  canvas.selected = data.selected;
  canvas.said = said;
  if (canvas.drawn !== data.thumbs) {
    canvas.drawn = data.thumbs;
    canvas.pictures = picturesOf(data);
  }
  if (!canvas.watch) {
    canvas.watch = new ResizeObserver(() => draw(canvas, said));
    canvas.watch.observe(parentElement.querySelector(".scroll"));
    canvas.onclick = (event) => choose(canvas, headAt(canvas, event));
    canvas.onmousemove = (event) => {
      canvas.under = headAt(canvas, event);
      tell(canvas, said);
    };
    canvas.onmouseleave = () => { canvas.under = null; tell(canvas, said); };
    canvas.onkeydown = (event) => byKey(canvas, event);
    parentElement.querySelector(".save").onclick = (event) => save(canvas, event.currentTarget);
  }
  draw(canvas, said);
  return () => { canvas.watch?.disconnect(); canvas.watch = null; };
}

function picturesOf({ thumbs, size, layers, heads }) {
  const values = bytes(thumbs);
  const pictures = [];
  for (let number = 0; number < layers * heads; number++) {
    const image = new ImageData(size, size);
    for (let i = 0; i < size * size; i++) {
      const value = values[number * size * size + i];
      if (value === 255) continue; // a key that no query of this place can see: left transparent
      image.data.set([...viridis(value / 254), 255], 4 * i);
    }
    const picture = document.createElement("canvas");
    picture.width = picture.height = size;
    picture.getContext("2d").putImageData(image, 0, 0);
    pictures.push(picture);
  }
  return pictures;
}

function cellSize(canvas) {
  const { heads, layers } = canvas.component.data;
  const width = canvas.parentElement.clientWidth - LEFT - 14;
  return Math.max(18, Math.min(layers > 12 ? 62 : 104, Math.floor(width / heads) - GAP));
}

function draw(canvas, said) {
  const { layers, heads, kv_heads, marked } = canvas.component.data, selected = canvas.selected;
  const cell = cellSize(canvas), step = cell + GAP;
  const width = LEFT + heads * step, height = TOP + layers * step;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const style = getComputedStyle(canvas);
  const ink = style.getPropertyValue("--st-text-color"), accent = style.getPropertyValue("--st-primary-color");
  const line = style.getPropertyValue("--st-border-color"), ground = style.getPropertyValue("--st-secondary-background-color");
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = `11px ${style.getPropertyValue("--st-font") || "sans-serif"}`;
  pen.fillStyle = ink;
  pen.textAlign = "center";
  for (let head = 0; head < heads; head++) {
    if (cell > 14 || head % 4 === 0) pen.fillText(head, LEFT + head * step + cell / 2, TOP - 5);
  }
  if (kv_heads < heads) {
    const size = heads / kv_heads;
    for (let group = 0; group < kv_heads; group++) {
      const from = LEFT + group * size * step, to = from + size * step - GAP;
      pen.fillStyle = line;
      pen.fillRect(from, 16, to - from, 2);
      pen.fillStyle = ink;
      pen.fillText(to - from > 40 ? `shared ${group}` : group, (from + to) / 2, 11);
    }
  }
  pen.textAlign = "right";
  pen.imageSmoothingEnabled = false;
  const bright = new Set(marked);
  for (let layer = 0; layer < layers; layer++) {
    const y = TOP + layer * step;
    pen.fillStyle = ink;
    pen.fillText(layer, LEFT - 7, y + cell / 2 + 4);
    for (let head = 0; head < heads; head++) {
      const x = LEFT + head * step, number = layer * heads + head;
      pen.fillStyle = ground;
      pen.fillRect(x, y, cell, cell);
      pen.drawImage(canvas.pictures[number], x, y, cell, cell);
      const isChosen = layer === selected[0] && head === selected[1];
      if (isChosen || bright.has(number)) {
        pen.strokeStyle = isChosen ? accent : ink;
        pen.lineWidth = isChosen ? 3 : 1;
        pen.strokeRect(x - 1, y - 1, cell + 2, cell + 2);
      }
    }
  }
  canvas.setAttribute(
    "aria-label",
    `${layers} layers of ${heads} heads; chosen: layer ${selected[0]}, head ${selected[1]}. Arrow keys choose another.`,
  );
  tell(canvas, said);
}

function headAt(canvas, event) {
  const { layers, heads } = canvas.component.data;
  const step = cellSize(canvas) + GAP, box = canvas.getBoundingClientRect();
  const head = Math.floor((event.clientX - box.left - LEFT) / step);
  const layer = Math.floor((event.clientY - box.top - TOP) / step);
  return head >= 0 && head < heads && layer >= 0 && layer < layers ? [layer, head] : null;
}

function tell(canvas, said) {
  const { tips, heads } = canvas.component.data;
  const [layer, head] = canvas.under ?? canvas.selected;
  canvas.style.cursor = canvas.under ? "pointer" : "default";
  said.textContent = `Layer ${layer}, head ${head}: ${tips[layer * heads + head]}`;
}

function choose(canvas, at) {
  const [layer, head] = canvas.selected;
  if (!at || (at[0] === layer && at[1] === head)) return;
  canvas.selected = at; // shown at once; the large picture follows
  draw(canvas, canvas.said);
  canvas.component.setTriggerValue("head", at);
}

function save(canvas, link) {
  const paper = document.createElement("canvas"); // the page's ground is behind the picture, not in it
  paper.width = canvas.width;
  paper.height = canvas.height;
  const pen = paper.getContext("2d");
  pen.fillStyle = getComputedStyle(canvas).getPropertyValue("--st-background-color");
  pen.fillRect(0, 0, paper.width, paper.height);
  pen.drawImage(canvas, 0, 0);
  link.download = `${canvas.component.data.name}.png`;
  link.href = paper.toDataURL("image/png");
}

function byKey(canvas, event) {
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const move = moves[event.key];
  if (!move) return;
  event.preventDefault();
  const { layers, heads } = canvas.component.data, selected = canvas.selected;
  const clip = (value, end) => Math.min(end - 1, Math.max(0, value));
  choose(canvas, [clip(selected[0] + move[0], layers), clip(selected[1] + move[1], heads)]);
}
