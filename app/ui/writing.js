// Texts a model wrote: entries below each other, each with a heading, a prompt set back, and pieces that may
// carry how sure the model was. Everything is put in as text, never as markup: a model can write anything.

const seen = new WeakMap(); // parentElement -> what was drawn, so that an unchanged text is left alone

export default function ({ parentElement, data }) {
  const box = parentElement.querySelector(".box");
  const old = seen.get(box) ?? [];
  box.style.maxHeight = data.height ? `${data.height}px` : "";
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 24;
  const wanted = data.entries.map((entry) => JSON.stringify(entry));
  wanted.forEach((text, at) => {
    if (text === old[at]) return;
    const made = draw(data.entries[at]);
    const there = box.children[at];
    if (there) there.replaceWith(made); else box.append(made);
  });
  while (box.children.length > wanted.length) box.lastChild.remove();
  seen.set(box, wanted);
  if (data.follow && atEnd) box.scrollTop = box.scrollHeight; // unless somebody has scrolled up to read
}

function draw({ head, prompt, pieces }) {
  const entry = document.createElement("article");
  if (head) entry.append(span("head", head));
  const text = document.createElement("div");
  text.className = "text";
  if (prompt) text.append(span("prompt", prompt));
  for (const [words, sure] of pieces) {
    const piece = span("", words);
    if (sure !== null) {
      piece.style.setProperty("--sure", `${Math.round(sure * 55)}%`);
      piece.className = "piece";
      piece.title = `${(100 * sure).toPrecision(2)} % sure of ${JSON.stringify(words)}`;
    }
    text.append(piece);
  }
  entry.append(text);
  return entry;
}

function span(name, text) {
  const made = document.createElement("span");
  made.className = name;
  made.textContent = text;
  return made;
}
