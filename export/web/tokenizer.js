/**
 * From a text to token ids, as the `tokenizers` library does it with the WordPiece `tokenizer.json` of a BERT model.
 *
 * It knows one kind of tokenizer: BertNormalizer, BertPreTokenizer, WordPiece. `potstill export` writes a page for no other.
 */

const SPACE = "\\p{White_Space}";
const CHINESE =
  /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;

export class Tokenizer {
  #vocabulary;
  #model;
  #rules;
  #patterns;
  #before;
  #after;
  #room;

  /**
   * @param {object} file The content of `tokenizer.json`.
   * @param {object} about The content of `model.json`: the most ids of a text, the special ones around it, and the characters that
   *   the library drops, takes for accents and takes for punctuation. A browser's own classes are of another Unicode version.
   */
  constructor(file, { max_length: maxLength, ids_before: before, ids_after: after, characters }) {
    this.#vocabulary = new Map(Object.entries(file.model.vocab));
    this.#model = file.model;
    this.#rules = file.normalizer;
    this.#patterns = {
      dropped: new RegExp(`[${characters.dropped}]`, "gu"),
      accents: new RegExp(`[${characters.accents}]`, "gu"),
      words: new RegExp(`[${characters.punctuation}]|[^${SPACE}${characters.punctuation}]+`, "gu"),
      spaces: new RegExp(SPACE, "gu"),
    };
    const added = (normalized) => file.added_tokens.filter((token) => token.normalized === normalized);
    this.#patterns.added = patternOf(added(false), (content) => content);
    this.#patterns.addedNormalized = patternOf(added(true), (content) => this.#normalized(content));
    this.#before = before;
    this.#after = after;
    this.#room = maxLength - before.length - after.length;
  }

  /**
   * @param {string} text
   * @returns {{ids: number[], isCut: boolean}} At most `max_length` ids, and whether the text has more.
   */
  encode(text) {
    if (/\p{Surrogate}/u.test(text)) throw new Error("the text has half a character (a lone surrogate)");
    const ids = [];
    let isCut = false;
    for (const id of this.#tokens(text)) {
      isCut = ids.length === this.#room;
      if (isCut) break;
      ids.push(id);
    }
    return { ids: [...this.#before, ...ids, ...this.#after], isCut };
  }

  /** Yield all ids; a token such as [SEP] that is written in the text is itself. */
  *#tokens(text) {
    for (const part of split(text, this.#patterns.added)) {
      if (part.id !== undefined) yield part.id;
      else yield* this.#tokensOfNormalized(this.#normalized(part.text));
    }
  }

  *#tokensOfNormalized(text) {
    for (const part of split(text, this.#patterns.addedNormalized)) {
      if (part.id !== undefined) yield part.id;
      else for (const [word] of part.text.matchAll(this.#patterns.words)) yield* this.#pieces(word);
    }
  }

  #normalized(text) {
    const { clean_text: clean, handle_chinese_chars: chinese, strip_accents: strip, lowercase } = this.#rules;
    if (clean) text = text.replace(this.#patterns.dropped, "").replace(this.#patterns.spaces, " ");
    if (chinese) text = text.replace(CHINESE, " $& ");
    if (strip ?? lowercase) text = text.normalize("NFD").replace(this.#patterns.accents, "");
    // The library lowercases each character alone, so that no sigma is a final one.
    if (lowercase) text = text.replaceAll("Σ", "σ").toLowerCase();
    return text;
  }

  /** Yield the pieces of a word, each the longest there is, or the unknown token if they do not make up the word. */
  *#pieces(word) {
    const { unk_token: unknown, continuing_subword_prefix: prefix, max_input_chars_per_word: longest } = this.#model;
    const characters = [...word];
    const pieces = [];
    for (let start = 0; start < characters.length && characters.length <= longest; ) {
      let end = characters.length;
      const piece = () => this.#vocabulary.get((start ? prefix : "") + characters.slice(start, end).join(""));
      while (end > start && piece() === undefined) end--;
      if (end === start) break;
      pieces.push(piece());
      start = end;
      if (start === characters.length) return yield* pieces;
    }
    yield this.#vocabulary.get(unknown);
  }
}

/** Return what finds added tokens, the longest of those that begin at one place, and their ids in the order of its groups. */
function patternOf(added, written) {
  const tokens = added.map((token) => ({ ...token, content: written(token.content) }));
  tokens.sort((one, other) => other.content.length - one.content.length);
  const sources = tokens.map(({ content, lstrip, rstrip }) => {
    const exact = content.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");
    return `${lstrip ? `${SPACE}*` : ""}(${exact})${rstrip ? `${SPACE}*` : ""}`;
  });
  return { ids: tokens.map((token) => token.id), expression: sources.length ? new RegExp(sources.join("|"), "gu") : null };
}

/** Yield the parts of a text: `{ id }` of an added token, `{ text }` of what is between. */
function* split(text, { ids, expression }) {
  let start = 0;
  for (const found of expression ? text.matchAll(expression) : []) {
    yield { text: text.slice(start, found.index) };
    yield { id: ids[found.slice(1).findIndex((group) => group !== undefined)] };
    start = found.index + found[0].length;
  }
  yield { text: text.slice(start) };
}
