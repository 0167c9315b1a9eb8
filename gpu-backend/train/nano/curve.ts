import { type DecodePng, readNlvrBoxes, readNlvrExamples } from '../../io/nlvr.ts';
import type { VlmConfig } from '../../models/config.ts';
import { causalBias, forwardGraph } from '../../models/vlm.ts';
import { f32, ints, Session, type Tensor } from '../../runtime/session.ts';
import type { LayoutOptions } from '../../text/layout.ts';
import { planMicroBatches, type TrainingSample } from '../batch.ts';
import type { ParameterState } from '../state.ts';
import { encodeQuestion } from './encode.ts';
import { heldOutItems } from './heldout.ts';

/** A question with a closed set of answers, encoded; `label` is an index into `choices`. */
interface CurveItem {
  readonly group: string;
  readonly sample: TrainingSample;
  /** First token of every choice. */
  readonly choices: readonly number[];
  readonly label: number;
}

export interface CurveOptions {
  readonly config: VlmConfig;
  readonly layout: LayoutOptions;
  /** NLVR folder; without it the curve has the generated items alone. */
  readonly nlvrDir?: string;
  readonly decodePng: DecodePng;
  readonly itemsPerSkill: number;
  /** NLVR dev examples, evenly spaced over the file; each in one order. */
  readonly nlvrItems: number;
  readonly threads: number;
}

/** Small samples of the generated held-out set and of NLVR dev, scored now and then while training: a curve, not a result. */
export class Curve {
  private constructor(
    private readonly session: Session,
    private readonly items: readonly CurveItem[],
    private readonly options: CurveOptions,
  ) {}

  static async create(options: CurveOptions): Promise<Curve> {
    const { graph } = forwardGraph(options.config, { images: 'pixels', rows: true });
    const session = await Session.create(graph, { threads: options.threads });
    const items = [...heldOutCurve(options), ...(await nlvrCurve(options))];
    return new Curve(session, items, options);
  }

  /** Accuracy by group: the four skills, `nlvr`; a choice is right when its first token is the likeliest of the choices'. */
  async score(state: ParameterState): Promise<Record<string, number>> {
    const weights: Record<string, Tensor> = {};
    for (const p of state.parameters) weights[p.name] = f32(p.value, p.shape);
    const tallies = new Map<string, { right: number; count: number }>();
    for (const group of planMicroBatches(this.items, (i) => i.sample.layout.ids.length, 2000)) {
      const results = await this.session.run({ ...weights, ...this.feeds(group) });
      const { data, shape } = results.logits as Tensor;
      group.forEach((item, row) => {
        const scores = item.choices.map((id) => Number(data[row * (shape[1] ?? 0) + id]));
        const best = scores.indexOf(Math.max(...scores));
        const tally = tallies.get(item.group) ?? { right: 0, count: 0 };
        tallies.set(item.group, { right: tally.right + (best === item.label ? 1 : 0), count: tally.count + 1 });
      });
    }
    return Object.fromEntries([...tallies].map(([name, { right, count }]) => [name, right / count]));
  }

  private feeds(group: readonly CurveItem[]): Record<string, Tensor> {
    const length = Math.max(...group.map((i) => i.sample.layout.ids.length));
    const side = this.options.config.vision.imageSize;
    const ids = new Int32Array(group.length * length);
    const [rows, imageRows, images]: [number[], number[], Float32Array[]] = [[], [], []];
    group.forEach(({ sample: { layout, images: own } }, b) => {
      ids.set(layout.ids, b * length);
      rows.push(b * length + layout.ids.length - 1);
      for (const slot of layout.images)
        for (let k = 0; k < slot.tokenCount; k++) imageRows.push(b * length + slot.tokenStart + k);
      images.push(...own);
    });
    const pixels = new Float32Array(images.length * 3 * side * side);
    images.forEach((image, i) => {
      pixels.set(image, i * image.length);
    });
    const positions = Int32Array.from({ length: ids.length }, (_, i) => i % length);
    return {
      ids: ints(ids, [group.length, length]),
      positions: ints(positions, [group.length, length]),
      causal_bias: f32(causalBias(length), [length, length]),
      rows: ints(rows, [rows.length]),
      image_rows: ints(imageRows, [imageRows.length]),
      pixel_values: f32(pixels, [images.length, 3, side, side]),
    };
  }
}

function firstToken(options: CurveOptions, answer: string): number {
  const [id] = options.layout.tokenizer.encode(answer);
  if (id === undefined) throw new Error('an answer to choose from is empty');
  return id;
}

function heldOutCurve(options: CurveOptions): CurveItem[] {
  return heldOutItems(options.itemsPerSkill).map((item) => ({
    group: item.skill,
    sample: encodeQuestion(item.images, item.question, options.layout, options.config.vision.imageSize),
    choices: item.choices.map((choice) => firstToken(options, choice)),
    label: item.choices.indexOf(item.answer),
  }));
}

async function nlvrCurve(options: CurveOptions): Promise<CurveItem[]> {
  const { nlvrDir, nlvrItems } = options;
  if (nlvrDir === undefined) return [];
  const [examples, boxes] = await Promise.all([readNlvrExamples(nlvrDir, 'dev'), readNlvrBoxes(nlvrDir, 'dev')]);
  const stride = Math.max(1, Math.floor(examples.length / nlvrItems));
  const chosen = examples.filter((_, i) => i % stride === 0).slice(0, nlvrItems);
  const choices = ['true', 'false'].map((answer) => firstToken(options, answer));
  return Promise.all(
    chosen.map(async (example, i): Promise<CurveItem> => {
      const order = example.boxes[i % example.boxes.length] ?? [];
      const images = await Promise.all(order.map(async (box) => (await options.decodePng(boxes.png(box))).rgb));
      const sample = encodeQuestion(images, example.statement.trim(), options.layout, options.config.vision.imageSize);
      return { group: 'nlvr', sample, choices, label: example.label === true ? 0 : 1 };
    }),
  );
}
