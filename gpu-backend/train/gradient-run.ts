import type { BoundRun } from '../runtime/bound-run.ts';
import { collectGarbage } from '../runtime/garbage.ts';
import { f32, type Session, type Tensor } from '../runtime/session.ts';
import type { ParameterState } from './state.ts';

/** Prefix of the graph outputs that hold gradients. */
export const GRADIENT_PREFIX = 'grad.';

/** Garbage of this size is not left to V8's own timing; less costs less than a collection. */
const COLLECT_BYTES = 64 * 1024 ** 2;

/** The one output that all gradients are joined in (joined-gradients.ts): [elements], one gradient after the other. */
export const JOINED_GRADIENTS = 'gradients';

function addJoined(state: ParameterState, names: readonly string[], gradients: Float32Array): void {
  let at = 0;
  for (const name of names) {
    const { length } = state.get(name).grad;
    state.addGradient(name, gradients.subarray(at, at + length));
    at += length;
  }
}

/** What a micro-batch gave besides gradients. */
export interface GradientResult {
  /** Σ weights · cross-entropy. */
  readonly loss: number;
  /** Logits of the supervised rows [R, V], where they were asked for; valid until the next micro-batch. */
  readonly logits: Tensor | undefined;
}

/**
 * A training session whose weights and gradients are bound to memory once. Weights are read where they lie, as views of the
 * state (trainable) and as given (frozen); gradients are written where the state wants them: those of a step's first
 * micro-batch into their sums themselves.
 */
export class GradientRun {
  private run: BoundRun | undefined;
  private readonly loss = new Float32Array(1);
  private logits = new Float32Array(0);
  /** V, known after the first run. */
  private logitsWidth: number | undefined;

  /**
   * @param trained parameters this graph has gradients of, where it has not all (a text-only graph has none of the projector)
   * @param wantsLogits the graph has the output `logits` and it is read
   * @param joined parameters whose gradients are one output, in its order (joined-gradients.ts), where they are
   */
  constructor(
    private readonly session: Session,
    private readonly frozen: Readonly<Record<string, Tensor>>,
    private readonly options: {
      readonly trained?: readonly string[] | undefined;
      readonly wantsLogits: boolean;
      readonly joined?: readonly string[] | undefined;
    },
  ) {}

  /**
   * Adds one micro-batch's gradients to a state.
   * @param feeds all data inputs of the graph
   * @param rows supervised rows of the micro-batch, R
   * @throws Error when the graph has no gradient of a parameter, or a shape does not fit; the step's gradients are void then
   */
  async add(state: ParameterState, feeds: Readonly<Record<string, Tensor>>, rows: number): Promise<GradientResult> {
    const { trained, wantsLogits, joined } = this.options;
    const own = trained === undefined ? state.parameters : trained.map((name) => state.get(name));
    const run = this.run ?? this.open();
    for (const p of own) {
      run.input(p.name, f32(p.value, p.shape));
      if (joined === undefined) run.output(GRADIENT_PREFIX + p.name, f32(state.placeForGradient(p.name), p.shape));
    }
    if (joined !== undefined) run.output(JOINED_GRADIENTS);
    for (const [name, tensor] of Object.entries(feeds)) run.input(name, tensor);
    if (wantsLogits) run.output('logits', this.placeForLogits(rows));
    await run.run();
    if (joined === undefined) for (const p of own) state.takeGradient(p.name);
    else addJoined(state, joined, run.read(JOINED_GRADIENTS).data as Float32Array);
    const logits = wantsLogits ? run.read('logits') : undefined;
    this.logitsWidth ??= logits?.shape[1];
    // onnxruntime-node's binding copies what it has written in place into fresh memory all the same. V8, which sees a small
    // heap of small objects, would let the last run's live through the next one's peak.
    const gradientBytes = own.reduce((bytes, p) => bytes + p.value.byteLength, 0);
    if (this.session.binding === 'node' && gradientBytes >= COLLECT_BYTES) collectGarbage();
    return { loss: this.loss[0] as number, logits };
  }

  /** Gives up what is bound; the session may have other users. */
  release(): void {
    this.run?.release();
    this.run = undefined;
  }

  private open(): BoundRun {
    const run = this.session.bind();
    for (const [name, tensor] of Object.entries(this.frozen)) run.input(name, tensor);
    run.output('loss', f32(this.loss, []));
    this.run = run;
    // Files and arrays that weights were made from are dead by now, and runs make no garbage that V8 would notice.
    collectGarbage();
    return run;
  }

  /** Memory for [R, V], as large as the largest yet; none before V is known. */
  private placeForLogits(rows: number): Tensor | undefined {
    if (this.logitsWidth === undefined) return undefined;
    const length = rows * this.logitsWidth;
    if (this.logits.length < length) this.logits = new Float32Array(length);
    return f32(this.logits.subarray(0, length), [rows, this.logitsWidth]);
  }
}
