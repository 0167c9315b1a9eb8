import { normaliseAnswer } from '../../text/normalise-answer.ts';

/** Whether the options that held-out questions will be answered with hold their references: else no answer can be right. */
export class OptionsCheck {
  readonly #sets: readonly {
    readonly options: readonly string[];
    readonly known: ReadonlySet<string>;
    found: number;
  }[];
  #first: { readonly line: string; readonly answer: string } | null = null;

  /** @param sets one for each way in which the same examples are asked */
  constructor(sets: readonly (readonly string[])[]) {
    this.#sets = sets.map((options) => ({ options, known: new Set(options.map(normaliseAnswer)), found: 0 }));
  }

  /** @returns the options of which none is this answer, where there are such */
  look(answer: string, line: string): readonly string[] | null {
    this.#first ??= { line, answer };
    const wanted = normaliseAnswer(answer);
    let missing: readonly string[] | null = null;
    for (const set of this.#sets)
      if (set.known.has(wanted)) set.found++;
      else missing ??= set.options;
    return missing;
  }

  /** What is wrong where some options hold no reference at all: nothing could ever be right. Null where none do, or nothing was read. */
  fault(): { readonly expected: string; readonly received: string } | null {
    const set = this.#sets.find(({ found }) => found === 0);
    if (set === undefined || this.#first === null) return null;
    const { line, answer } = this.#first;
    return {
      expected: 'options that hold the answers of the held-out examples',
      received: `${listed(set.options)}, which hold none of them: line ${line} has ${quoted(answer)}`,
    };
  }
}

const SHOWN = 4;
const MAX_CHARS = 60;

/** `"a", "b", … (7)`. */
export function listed(options: readonly string[]): string {
  const some = options.slice(0, SHOWN).map(quoted).join(', ');
  return options.length > SHOWN ? `${some}, … (${options.length})` : some;
}

export function quoted(text: string): string {
  return JSON.stringify(text.length > MAX_CHARS ? `${text.slice(0, MAX_CHARS)}…` : text);
}
