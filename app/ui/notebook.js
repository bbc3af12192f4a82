// A text that keeps itself: what was typed is sent after a short pause, and at once when the field is left.
const PAUSE_MS = 700;

export default function (component) {
  const { data, parentElement, setStateValue } = component;
  const area = parentElement.querySelector("textarea");
  const said = parentElement.querySelector(".said");
  let kept = area.dataset.kept;
  if (area.dataset.run !== data.run) {
    // Another run's notebook: begin with what the record has of it.
    area.dataset.run = data.run;
    area.value = kept = area.dataset.kept = data.text;
    said.textContent = "";
  } else if (data.text === area.value && kept !== data.text) {
    area.dataset.kept = data.text;
    said.textContent = "Kept.";
  }

  const send = () => {
    clearTimeout(area.timer);
    if (area.value !== area.dataset.sent || area.dataset.sent === undefined) {
      area.dataset.sent = area.value;
      setStateValue("text", area.value);
    }
  };
  area.oninput = () => {
    said.textContent = "Typing …";
    clearTimeout(area.timer);
    area.timer = setTimeout(send, PAUSE_MS);
  };
  area.onblur = () => {
    if (area.value !== area.dataset.kept) send();
  };
}
