import type { Tensor } from './session.ts';

/**
 * Inputs and outputs of a session that are set once and used by many runs; only what changes is set again. Tensors are used
 * where they lie: `run` reads the inputs' memory as it is then, so values may be changed between runs without setting anything.
 * Not to be changed or released while a run is under way.
 */
export interface BoundRun {
  /** @throws Error when the model has no such input, or declares it with another type */
  input(name: string, tensor: Tensor): void;
  /**
   * Asks for an output. With a tensor, the result is written into its memory, which must have exactly the result's shape and
   * may be an input's memory too where the kernels allow it; without, each run makes room for it and `read` gives it.
   * 'device': each run makes room in the memory of the session's device, for `feedBack`; on the processor that is main memory.
   * @throws Error when the model has no such output, or declares it with another type
   */
  output(name: string, tensor?: Tensor | 'device'): void;
  /**
   * Runs on the calling thread: the native binding is done when it returns, the other when its promise is fulfilled.
   * @throws Error with ONNX Runtime's message when a shape does not fit; one of ours when an input is missing or the session
   * is released. Outputs may be partly written then.
   */
  run(): void | Promise<void>;
  /** As run, beside the calling thread where the binding can. Other sessions and other bound runs may run meanwhile. */
  runAsync(): Promise<void>;
  /**
   * Makes the last run's `output`, which must not be bound to a tensor, the next run's `input`, without a copy where the
   * binding can: state that is carried from run to run and never read.
   */
  feedBack(output: string, input: string): void;
  /** Shape of an output in the last run. */
  shapeOf(output: string): readonly number[];
  /** An output of the last run: the bound tensor, or a copy of what the run made room for. */
  read(output: string): Tensor;
  /** Releasing it again does nothing. */
  release(): void;
}

/** A session as one of the two bindings makes it. */
export interface SessionBinding {
  readonly binding: 'node' | 'native';
  readonly outputNames: readonly string[];
  /** @throws Error when a feed is missing or a shape does not fit; feeds that the model does not ask for are left out */
  run(feeds: Readonly<Record<string, Tensor>>, outputs: readonly string[]): Promise<Record<string, Tensor>>;
  bind(): BoundRun;
  endProfiling(): void;
  release(): Promise<void>;
}
