// Tokens side by side. A token that ends in a line break ends the line here, too. Everything is put in as text.

const TUNED = 2; // place of the colour of what is learnt in the theme's series

const drawn = new WeakMap(); // strip -> what it shows, so that an unchanged one is left alone

export default function ({ parentElement, data }) {
  const strip = parentElement.querySelector(".strip");
  const wanted = JSON.stringify(data);
  if (drawn.get(strip) === wanted) return;
  drawn.set(strip, wanted);
  const style = getComputedStyle(parentElement.host ?? parentElement);
  const series = style.getPropertyValue("--st-chart-categorical-colors").split(",");
  strip.style.setProperty("--chip-colour", (series[TUNED] ?? "").trim() || style.getPropertyValue("--st-primary-color"));
  strip.style.maxHeight = data.height ? `${data.height}px` : "";
  strip.replaceChildren(...data.chips.flatMap(chip));
}

function chip([label, kind, heat, title]) {
  const made = document.createElement("span");
  made.className = `chip ${heat === null ? kind : "heat"}`;
  made.setAttribute("role", "listitem");
  made.textContent = label;
  if (heat !== null) made.style.setProperty("--heat", `${Math.round(8 + 72 * heat)}%`);
  if (heat === 0) made.style.setProperty("--heat", "0%");
  if (title) made.title = title;
  if (!label.endsWith("\\n")) return [made];
  const end = document.createElement("span");
  end.className = "break";
  return [made, end];
}
