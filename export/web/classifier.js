/**
 * Runs a classifier that `potstill export --layout web` wrote, in the browser: texts in, probabilities out. It knows nothing of a
 * page, so another page can use it:
 *
 *     import { Classifier } from "./classifier.js";
 *     const classifier = await Classifier.open();
 *     const { chosen, probabilities } = await classifier.classify("a masterpiece of boredom");
 */

import * as ort from "./onnxruntime.js";
import { Tokenizer } from "./tokenizer.js";

const TO_PROBABILITIES = {
  single_label_classification(logits) {
    const largest = Math.max(...logits);
    const powers = logits.map((logit) => Math.exp(logit - largest));
    const sum = powers.reduce((total, power) => total + power, 0);
    return powers.map((power) => power / sum);
  },
  multi_label_classification: (logits) => logits.map((logit) => 1 / (1 + Math.exp(-logit))),
  regression: (logits) => logits,
};

export class Classifier {
  #session;
  #tokenizer;

  /** @param {object} about The content of `model.json`. */
  constructor(about, tokenizer, session) {
    this.about = about;
    this.#tokenizer = tokenizer;
    this.#session = session;
  }

  /**
   * Load the files beside this one, and compare answers with those that Python gave when they were written.
   *
   * @returns {Promise<Classifier>}
   */
  static async open() {
    const [about, file, graph, wasm] = await Promise.all([
      load("model.json", "json"),
      load("tokenizer.json", "json"),
      load("model.onnx", "arrayBuffer"),
      load("onnxruntime.wasm", "arrayBuffer"),
    ]);
    ort.env.wasm.wasmBinary = wasm;
    // More threads need headers that a plain file server does not send, and one text does not gain by them.
    ort.env.wasm.numThreads = 1;
    ort.env.logLevel = "error";
    const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
    const classifier = new Classifier(about, new Tokenizer(file, about), session);
    await classifier.#check();
    return classifier;
  }

  /**
   * @param {string} text
   * @returns {Promise<{chosen: string[], probabilities: number[], numTokens: number, isCut: boolean, milliseconds: number}>}
   *   The predicted labels; the probabilities in the order of `about.labels` (of a regression model: its values); the number of
   *   tokens that were read; whether the text has more; and how long it took.
   */
  async classify(text) {
    const started = performance.now();
    const { ids, isCut } = this.#tokenizer.encode(text);
    const tensor = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, ids.length]);
    const { logits } = await this.#session.run({ input_ids: tensor(ids), attention_mask: tensor(ids.map(() => 1)) });
    const probabilities = TO_PROBABILITIES[this.about.problem_type]([...logits.data]);
    const milliseconds = performance.now() - started;
    return { chosen: this.#chosen(probabilities), probabilities, numTokens: ids.length, isCut, milliseconds };
  }

  #chosen(probabilities) {
    const { labels, problem_type: problemType, threshold } = this.about;
    if (problemType === "regression") return [];
    if (problemType === "multi_label_classification") return labels.filter((_, index) => probabilities[index] >= threshold);
    return [labels[probabilities.indexOf(Math.max(...probabilities))]];
  }

  /** Refuse to answer where this browser does not answer as Python did. */
  async #check() {
    for (const { text, probabilities: expected } of this.about.probes) {
      const { probabilities } = await this.classify(text);
      const change = Math.max(...expected.map((value, index) => Math.abs(value - probabilities[index])));
      if (!(change <= this.about.tolerance)) {
        throw new Error(
          `this browser gives other answers than Python gave: of ${JSON.stringify(text)} a probability differs by ` +
            `${change.toFixed(4)}, expected at most ${this.about.tolerance}`,
        );
      }
    }
  }
}

async function load(name, form) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name} cannot be loaded: status ${response.status}`);
  return response[form]();
}
