/** The page around the classifier: it answers while the reader types. */

import { Classifier } from "./classifier.js";

const MOST_SHOWN = 10; // labels
const QUIET_MS = 600; // after the last key, before the answer is read out
const FEW = 6; // labels; so many keep their places, more are sorted

const at = (id) => document.getElementById(id);

let classifier;
let isBusy = false;
let reading;

async function start() {
  try {
    classifier = await Classifier.open();
  } catch (error) {
    fail(error);
    return;
  }
  const { name, precision, labels, probes, tolerance, max_length: maxLength } = classifier.about;
  document.title = `${name} - text classifier`;
  at("name").textContent = name;
  at("state").textContent = `Ready. It reads up to ${maxLength} tokens and answers while you type.`;
  at("about").textContent =
    `${labels.length === 1 ? "1 label" : `${labels.length} labels`}, ${precision} graph, ONNX Runtime in WebAssembly on one thread. ` +
    `On ${probes.length} texts this browser gave the same probabilities as Python, within ${tolerance}.`;
  at("text").disabled = false;
  at("text").addEventListener("input", answer);
  answer(); // a browser may have kept the text of the last visit
}

/** Answer the text that is in the field now; what is typed meanwhile is answered next. */
async function answer() {
  if (isBusy) return;
  isBusy = true;
  try {
    for (let text = null; text !== at("text").value; ) {
      text = at("text").value;
      show(text.trim() ? await classifier.classify(text) : null);
    }
  } catch (error) {
    fail(error);
  } finally {
    isBusy = false;
  }
}

function show(result) {
  at("answer").hidden = !result;
  clearTimeout(reading);
  if (!result) return;
  const { labels, problem_type: problemType, max_length: maxLength } = classifier.about;
  let rows = labels.map((label, index) => ({ label, value: result.probabilities[index], isChosen: result.chosen.includes(label) }));
  if (rows.length > FEW) rows.sort((one, other) => other.value - one.value);
  const others = rows.length - MOST_SHOWN;
  const written = (value) => (problemType === "regression" ? value.toFixed(3) : `${(100 * value).toFixed(1)} %`);
  at("rest").hidden = others <= 0;
  at("rest").textContent = others > 0 ? `${others} more labels, none above ${written(rows[MOST_SHOWN].value)}` : "";
  rows = rows.slice(0, MOST_SHOWN);
  at("scores").replaceChildren(...rows.map((row) => scoreOf(row, written(row.value), problemType !== "regression")));
  at("took").textContent =
    `${result.milliseconds.toFixed(result.milliseconds < 10 ? 1 : 0)} ms, ${result.numTokens} tokens` +
    (result.isCut ? `; only the first ${maxLength} were read` : "");
  const said = rows.filter((row) => row.isChosen || problemType === "regression").map((row) => `${row.label} ${written(row.value)}`);
  reading = setTimeout(() => (at("heard").textContent = said.join(", ") || "No label"), QUIET_MS);
}

function scoreOf({ label, value, isChosen }, written, hasBar) {
  const item = element("li", isChosen ? "score chosen" : "score");
  item.append(element("span", "label", label), element("span", "number", written));
  if (hasBar) {
    const bar = element("div", "bar");
    bar.style.width = `${100 * value}%`;
    const track = element("div", "track");
    track.append(bar);
    item.append(track);
  }
  return item;
}

function element(tag, name, text = "") {
  const made = document.createElement(tag);
  made.className = name;
  made.textContent = text;
  return made;
}

function fail(error) {
  at("answer").hidden = true;
  at("state").className = "wrong";
  at("state").textContent = `This page cannot answer: ${error.message}`;
}

start();
