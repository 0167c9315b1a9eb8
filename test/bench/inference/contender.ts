/**
 * What the benchmark asks of an engine, and the loop by which a child process offers it: one JSON object a line on stdin, one
 * answer a line on stdout. `torch_contender.py` speaks the same lines.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

export interface ServedRequest {
  readonly ids: readonly number[];
  readonly newTokens: number;
}

export interface Elapsed {
  readonly ms: number;
  /** CPU time of the process in between: less than `ms` where others had the processor. */
  readonly cpuMs: number;
}

export interface Timing extends Elapsed {
  readonly tokens: number;
}

/** Starts a clock; calling it reads what has passed. */
export function stopwatch(): () => Elapsed {
  const cpu = process.cpuUsage();
  const started = performance.now();
  return () => {
    const ms = performance.now() - started;
    const { user, system } = process.cpuUsage(cpu);
    return { ms, cpuMs: (user + system) / 1000 };
  };
}

export interface Contender {
  /** Logits [vocab] behind the last of the ids. */
  logits(ids: readonly number[]): Promise<Float32Array>;
  /** Fills the caches of one row for each prompt, all of one length; decoding windows start behind it. */
  prepare(prompts: readonly (readonly number[])[]): Promise<void>;
  /** Greedy decoding of all rows for about `ms`, at least two steps. */
  decode(ms: number): Promise<Timing>;
  /** Gives back what `prepare` took. */
  finish(): Promise<void>;
  /** One prompt from nothing to its first new token. */
  prefill(ids: readonly number[]): Promise<Timing>;
  /** All requests at once, greedy, from the first submission to the last token. */
  serve(requests: readonly ServedRequest[]): Promise<Timing>;
}

export type Call =
  | { readonly op: 'logits' | 'prefill'; readonly ids: readonly number[] }
  | { readonly op: 'prepare'; readonly prompts: readonly (readonly number[])[] }
  | { readonly op: 'decode'; readonly ms: number }
  | { readonly op: 'finish' }
  | { readonly op: 'serve'; readonly requests: readonly ServedRequest[] };

export interface Answer {
  readonly error?: string;
  readonly tokens?: number;
  readonly ms?: number;
  readonly cpuMs?: number;
  /** Little-endian f32, base64. */
  readonly logits?: string;
  /** Largest resident memory: of loading in the first answer, of running in the others. */
  readonly peakRssMb: number;
}

async function answer(contender: Contender, call: Call): Promise<Omit<Answer, 'peakRssMb'>> {
  switch (call.op) {
    case 'logits': {
      const logits = await contender.logits(call.ids);
      return { logits: Buffer.from(logits.buffer, logits.byteOffset, logits.byteLength).toString('base64') };
    }
    case 'prepare':
      await contender.prepare(call.prompts);
      return {};
    case 'decode':
      return contender.decode(call.ms);
    case 'finish':
      await contender.finish();
      return {};
    case 'prefill':
      return contender.prefill(call.ids);
    case 'serve':
      return contender.serve(call.requests);
  }
}

function peakRssMb(): number {
  const line = /VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'));
  return Number(line?.[1] ?? Number.NaN) / 1024;
}

/** The child's main loop; ends when stdin does. */
export async function offer(create: () => Promise<Contender>): Promise<void> {
  const tell = (message: object): void => {
    process.stdout.write(`${JSON.stringify(message)}\n`);
  };
  let contender: Contender;
  try {
    contender = await create();
  } catch (error) {
    tell({ error: error instanceof Error ? error.message : String(error), peakRssMb: 0 });
    process.exit(1);
  }
  tell({ peakRssMb: peakRssMb() });
  // From here on the peak is that of running, without loading (proc(5), clear_refs).
  writeFileSync('/proc/self/clear_refs', '5');
  for await (const line of createInterface({ input: process.stdin })) {
    let result: object;
    try {
      result = await answer(contender, JSON.parse(line) as Call);
    } catch (error) {
      result = { error: error instanceof Error ? (error.stack ?? error.message) : String(error) };
    }
    tell({ ...result, peakRssMb: peakRssMb() });
  }
  process.exit(0);
}
