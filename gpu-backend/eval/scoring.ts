/** A piece of a prompt: text, or the index of one of the request's images. */
export type PromptPart = string | { readonly image: number };

/** One multiple-choice question. `Image` is whatever the model adapter takes for a picture. */
export interface ChoiceRequest<Image> {
  readonly parts: readonly PromptPart[];
  readonly images: readonly Image[];
  /** The answers to compare, at least two, each as the model would write it. */
  readonly choices: readonly string[];
}

/**
 * Log-probabilities of every choice as the answer to its request: one row a request, one number a choice (natural logarithm; only their
 * order within a row is used). Bound to a model by the caller; an evaluation knows no model.
 */
export type ScoreChoices<Image> = (requests: readonly ChoiceRequest<Image>[]) => Promise<number[][]>;

export interface RunOptions {
  /** Requests a call of the scorer. Default 64. */
  readonly batchSize?: number;
  /** Called after each batch with the requests done so far and in all. */
  readonly onProgress?: (done: number, total: number) => void;
}

/**
 * Scores requests in batches and gives the index of the best choice for each.
 * @throws when the scorer returns a wrong number of rows or columns, or a number that is not finite: a broken model must not look like a bad one
 */
export async function bestChoices<Image>(
  requests: readonly ChoiceRequest<Image>[],
  score: ScoreChoices<Image>,
  { batchSize = 64, onProgress }: RunOptions = {},
): Promise<number[]> {
  const best: number[] = [];
  for (let first = 0; first < requests.length; first += batchSize) {
    const batch = requests.slice(first, first + batchSize);
    const rows = await score(batch);
    if (rows.length !== batch.length) {
      throw new Error(
        `scorer: expected ${batch.length} rows for requests ${first}…${first + batch.length - 1}, got ${rows.length}`,
      );
    }
    for (const [i, request] of batch.entries()) best.push(bestOf(rows[i] ?? [], request.choices.length, first + i));
    onProgress?.(best.length, requests.length);
  }
  return best;
}

function bestOf(row: readonly number[], choices: number, request: number): number {
  if (row.length !== choices)
    throw new Error(`scorer: request ${request} has ${choices} choices, got ${row.length} numbers`);
  let best = 0;
  for (const [i, value] of row.entries()) {
    if (Number.isNaN(value) || value === Infinity)
      throw new Error(`scorer: request ${request}, choice ${i} got ${value}; expected a log-probability`);
    if (value > (row[best] ?? 0)) best = i;
  }
  return best;
}
