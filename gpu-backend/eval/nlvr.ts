import { bestChoices, type ChoiceRequest, type RunOptions, type ScoreChoices } from './scoring.ts';
import { clusteredShare } from './statistics/clustered.ts';

/** One line of an NLVR split. `id` and `group` serve the bookkeeping and never reach a prompt. */
export interface NlvrQuestion {
  readonly id: string;
  readonly group: string;
  readonly statement: string;
  readonly label?: boolean;
  /** The left-to-right orders of the boxes (six in the published data), as box numbers. */
  readonly boxes: readonly (readonly number[])[];
}

/**
 * What the model may look at: `none` hides nothing; `text-only` shows no image; `shuffled` shows the boxes of another group's example.
 * A model that sees does well on the first alone.
 */
export const nlvrControls = ['none', 'text-only', 'shuffled'] as const;
export type NlvrControl = (typeof nlvrControls)[number];

export interface NlvrReport {
  task: 'nlvr';
  control: NlvrControl;
  /** Right answers over all examples and all their orders. */
  accuracy: number;
  accuracyStandardError: number;
  accuracyInterval95: [number, number];
  /** Groups in which every example is right in every order, over all groups. */
  consistency: number;
  examples: number;
  groups: number;
  /** Answers given: examples times orders. */
  answers: number;
  /** Accuracy by position of the order in the file; a model blind to order has six equal numbers. */
  accuracyByOrder: number[];
  /** Share of answers that were `true`, and of examples whose label is. */
  answeredTrue: number;
  labelledTrue: number;
}

export interface NlvrOptions<Image> extends RunOptions {
  readonly control?: NlvrControl;
  /** The picture of one box number, as the scorer takes it. */
  readonly image: (box: number) => Image;
  readonly score: ScoreChoices<Image>;
}

const choices = ['true', 'false'] as const;

/** The prompt of one example: its boxes as images 1, 2, 3, then the statement as it was written. */
export function nlvrRequest<Image>(statement: string, images: readonly Image[]): ChoiceRequest<Image> {
  return { parts: [...images.map((_, image) => ({ image })), statement.trim()], images, choices };
}

/** For each example another one of a different group, half of the list away: fixed, so that two runs shuffle alike. */
function strangers(examples: readonly NlvrQuestion[]): NlvrQuestion[] {
  return examples.map((example, i) => {
    for (let step = 0; step < examples.length; step++) {
      const other = examples[(i + Math.floor(examples.length / 2) + step) % examples.length];
      if (other && other.group !== example.group && other.boxes.length >= example.boxes.length) return other;
    }
    throw new Error(
      `control \`shuffled\` needs examples of at least two groups; all ${examples.length} are of group ${example.group}`,
    );
  });
}

function requireLabels(examples: readonly NlvrQuestion[]): void {
  if (examples.length === 0) throw new Error('this NLVR split has no examples');
  const unlabelled = examples.findIndex((example) => example.label === undefined);
  if (unlabelled >= 0) {
    throw new Error(
      `line ${unlabelled + 1} of this NLVR split has no \`label\`; scoring needs a boolean label on every line`,
    );
  }
}

/**
 * Asks every example in every order and scores as the NLVR authors do (Suhr et al. 2017).
 * @throws when a label is missing, a control cannot be built or the scorer misbehaves
 */
export async function evaluateNlvr<Image>(
  examples: readonly NlvrQuestion[],
  options: NlvrOptions<Image>,
): Promise<NlvrReport> {
  requireLabels(examples);
  const { control = 'none', image, score } = options;
  const shown = control === 'shuffled' ? strangers(examples) : examples;
  const asked: { example: NlvrQuestion; order: number }[] = [];
  const requests: ChoiceRequest<Image>[] = [];
  for (const [i, example] of examples.entries()) {
    // Without images all orders read the same; one answer stands for each of them.
    for (const order of example.boxes.keys()) {
      const boxes = control === 'text-only' ? [] : (shown[i]?.boxes[order] ?? []);
      asked.push({ example, order });
      requests.push(nlvrRequest(example.statement, boxes.map(image)));
    }
  }
  const answers = await bestChoices(requests, score, options);
  const results = asked.map(({ example, order }, i) => ({
    cluster: example.group,
    order,
    answer: answers[i] === 0,
    right: (answers[i] === 0) === example.label,
  }));
  return summarise(examples, results, control);
}

interface Result {
  cluster: string;
  order: number;
  answer: boolean;
  right: boolean;
}

function summarise(examples: readonly NlvrQuestion[], results: readonly Result[], control: NlvrControl): NlvrReport {
  const { share, standardError, interval95 } = clusteredShare(results);
  const groups = new Map<string, boolean>();
  const byOrder: { right: number; count: number }[] = [];
  for (const { cluster, order, right } of results) {
    groups.set(cluster, (groups.get(cluster) ?? true) && right);
    const tally = byOrder[order] ?? { right: 0, count: 0 };
    byOrder[order] = { right: tally.right + Number(right), count: tally.count + 1 };
  }
  const share01 = (count: number, total: number) => count / total;
  return {
    task: 'nlvr',
    control,
    accuracy: share,
    accuracyStandardError: standardError,
    accuracyInterval95: interval95,
    consistency: share01([...groups.values()].filter(Boolean).length, groups.size),
    examples: examples.length,
    groups: groups.size,
    answers: results.length,
    accuracyByOrder: byOrder.map(({ right, count }) => share01(right, count)),
    answeredTrue: share01(results.filter(({ answer }) => answer).length, results.length),
    labelledTrue: share01(examples.filter(({ label }) => label).length, examples.length),
  };
}
