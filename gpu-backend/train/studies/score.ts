import type { VlmConfig } from '../../models/config.ts';
import { causalBias, forwardGraph } from '../../models/vlm.ts';
import { f32, ints, Session, type Tensor } from '../../runtime/session.ts';
import { planMicroBatches, type TrainingSample } from '../batch.ts';
import type { ParameterState } from '../state.ts';
import type { Item } from './dialogues.ts';
import type { Encoder, Form } from './forms.ts';

interface Encoded {
  readonly id: string;
  readonly sample: TrainingSample;
  readonly choices: readonly number[];
  readonly label: number;
}

/**
 * Asks held-out questions of weights in training: an answer counts as right when its first token is the likeliest of the
 * first tokens of the answers to choose from.
 */
export class Scorer {
  private readonly session: Session;
  private readonly config: VlmConfig;
  private readonly encoder: Encoder;

  private constructor(session: Session, config: VlmConfig, encoder: Encoder) {
    this.session = session;
    this.config = config;
    this.encoder = encoder;
  }

  static async create(config: VlmConfig, encoder: Encoder, threads: number): Promise<Scorer> {
    const { graph } = forwardGraph(config, { images: 'pixels', rows: true });
    return new Scorer(await Session.create(graph, { threads }), config, encoder);
  }

  /** @returns id of each item → whether it was answered rightly */
  async score(state: ParameterState, items: readonly Item[], form: Form): Promise<Map<string, boolean>> {
    const weights: Record<string, Tensor> = {};
    for (const p of state.parameters) weights[p.name] = f32(p.value, p.shape);
    const encoded = items.map((item) => this.encode(item, form));
    const right = new Map<string, boolean>();
    for (const group of planMicroBatches(encoded, ({ sample }) => sample.layout.ids.length, MICRO_BATCH_TOKENS)) {
      const { logits } = await this.session.run({ ...weights, ...this.feeds(group) });
      if (!(logits?.data instanceof Float32Array)) throw new Error('expected float32 logits of the forward graph');
      const [data, vocab] = [logits.data, this.config.text.vocab];
      group.forEach(({ id, choices, label }, row) => {
        const scores = choices.map((token) => data[row * vocab + token] ?? Number.NEGATIVE_INFINITY);
        right.set(id, scores.indexOf(Math.max(...scores)) === label);
      });
    }
    return right;
  }

  async release(): Promise<void> {
    await this.session.release();
  }

  private encode({ id, boxes, question }: Item, form: Form): Encoded {
    const choices = question.choices.map((choice) => this.encoder.firstToken(choice));
    if (new Set(choices).size < choices.length)
      throw new Error(`${id}: two of the answers ${question.choices.join(', ')} begin with the same token`);
    const sample = this.encoder.question(boxes, question.user, form);
    return { id, sample, choices, label: question.choices.indexOf(question.answer) };
  }

  private feeds(group: readonly Encoded[]): Record<string, Tensor> {
    const length = Math.max(...group.map(({ sample }) => sample.layout.ids.length));
    const side = this.config.vision.imageSize;
    const ids = new Int32Array(group.length * length);
    const [rows, imageRows, images]: [number[], number[], Float32Array[]] = [[], [], []];
    group.forEach(({ sample: { layout, images: own } }, b) => {
      ids.set(layout.ids, b * length);
      rows.push(b * length + layout.ids.length - 1);
      for (const { tokenStart, tokenCount } of layout.images)
        for (let k = 0; k < tokenCount; k++) imageRows.push(b * length + tokenStart + k);
      images.push(...own);
    });
    const pixels_NCHW = new Float32Array(images.length * 3 * side * side);
    images.forEach((image, i) => {
      pixels_NCHW.set(image, i * image.length);
    });
    return {
      ids: ints(ids, [group.length, length]),
      positions: ints(
        Int32Array.from({ length: ids.length }, (_, i) => i % length),
        [group.length, length],
      ),
      causal_bias: f32(causalBias(length), [length, length]),
      rows: ints(rows, [rows.length]),
      image_rows: ints(imageRows, [imageRows.length]),
      pixel_values: f32(pixels_NCHW, [images.length, 3, side, side]),
    };
  }
}

const MICRO_BATCH_TOKENS = 2000;
