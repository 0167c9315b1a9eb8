/**
 * The load, in a process of its own. A message with a `Task` is answered with its `Outcome`.
 * Open loop: requests are due at fixed times, whatever became of the others, and are timed from when they were due (no coordinated omission).
 * Closed loop: so many connections, each sending its next request when it has its answer.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Connection } from './http.ts';
import { type Prepared, RequestMaker } from './requests.ts';

export type Task = {
  kind: 'open' | 'closed' | 'streams';
  target: 'edge' | 'direct';
  port: number;
  apiKey: string;
  secret: string;
  seconds: number;
  /** Open loop: requests a second. */
  rate?: number;
  /** Closed loop and streams: connections. */
  connections?: number;
  /** Streams: tokens of each. */
  tokens?: number;
};

export type Outcome = {
  requests: number;
  seconds: number;
  failures: number;
  firstFailure: string | null;
  /** Latencies, or lags of tokens; ms, ascending. */
  ms: number[];
};

process.on('message', (task: Task) => {
  run(task).then(
    (outcome) => process.send?.(outcome),
    (error: unknown) => {
      console.error(error);
      process.exit(1);
    },
  );
});
process.on('disconnect', () => process.exit());

async function run(task: Task): Promise<Outcome> {
  const maker = await RequestMaker.make(task.apiKey, task.secret, task.tokens ?? 1, task.kind === 'streams');
  const outcome: Outcome = { requests: 0, seconds: 0, failures: 0, firstFailure: null, ms: [] };
  const startMs = performance.now();
  await { open: openLoop, closed: closedLoop, streams: streamLoop }[task.kind](task, maker, outcome);
  outcome.seconds = (performance.now() - startMs) / 1000;
  outcome.ms.sort((a, b) => a - b);
  return outcome;
}

/** @param last what this connection has sent before: its memory is taken again */
function prepare(task: Task, maker: RequestMaker, last?: Prepared): Prepared | Promise<Prepared> {
  return task.target === 'edge' ? maker.edge(last?.body) : maker.direct();
}

async function openLoop(task: Task, maker: RequestMaker, outcome: Outcome): Promise<void> {
  const everyMs = 1000 / (task.rate ?? 200);
  const total = Math.round((task.seconds * 1000) / everyMs);
  const idle: Connection[] = await Promise.all(Array.from({ length: 32 }, () => Connection.open(task.port)));
  const running: Promise<void>[] = [];
  const startMs = performance.now() + 50;
  for (let i = 0; i < total; i++) {
    const dueMs = startMs + i * everyMs;
    // Making a request is the client's time, so it is done before the request is due.
    const prepared = await prepare(task, maker);
    const waitMs = dueMs - performance.now();
    if (waitMs > 1.5) await sleep(waitMs - 1.2);
    // Timers are a millisecond coarse, which is what is to be measured.
    while (performance.now() < dueMs) await new Promise(setImmediate);
    running.push(one(prepared, dueMs));
  }
  await Promise.all(running);
  for (const connection of idle) connection.close();

  async function one({ head, body }: Prepared, dueMs: number): Promise<void> {
    const connection = idle.pop() ?? (await Connection.open(task.port));
    try {
      const answer = await connection.send(head, body);
      outcome.ms.push(performance.now() - dueMs);
      tally(answer, outcome);
      idle.push(connection);
    } catch (error) {
      fail(outcome, String(error));
    }
  }
}

async function closedLoop(task: Task, maker: RequestMaker, outcome: Outcome): Promise<void> {
  const untilMs = performance.now() + task.seconds * 1000;
  await Promise.all(
    Array.from({ length: task.connections ?? 16 }, async () => {
      const connection = await Connection.open(task.port);
      let prepared: Prepared | undefined;
      while (performance.now() < untilMs && connection.isOpen) {
        prepared = await prepare(task, maker, prepared);
        const sentMs = performance.now();
        try {
          tally(await connection.send(prepared.head, prepared.body), outcome);
          outcome.ms.push(performance.now() - sentMs);
        } catch (error) {
          fail(outcome, String(error));
        }
      }
      connection.close();
    }),
  );
}

/** Each token carries the time at which the upstream wrote it, of the clock that all processes of a machine share. */
async function streamLoop(task: Task, maker: RequestMaker, outcome: Outcome): Promise<void> {
  await Promise.all(
    Array.from({ length: task.connections ?? 64 }, async (_, i) => {
      // Not all in step.
      await sleep(i * 7);
      const connection = await Connection.open(task.port);
      const { head, body } = maker.edge();
      let rest = '';
      let tokens = 0;
      let text = '';
      await connection.send(head, body, (piece) => {
        const now = process.hrtime.bigint();
        const blocks = (rest + piece.toString('latin1')).split('\n\n');
        rest = blocks.pop() ?? '';
        for (const block of blocks) {
          text = block;
          const stamp = /"content":"(\d+) "/.exec(block)?.[1];
          if (stamp === undefined) continue;
          tokens++;
          outcome.ms.push(Number(now - BigInt(stamp)) / 1e6);
        }
      });
      outcome.requests++;
      if (tokens !== task.tokens || text !== 'data: [DONE]')
        fail(outcome, `${tokens} of ${task.tokens} tokens, then ${text.slice(0, 200)}`);
      connection.close();
    }),
  );
}

function tally({ status, body }: { status: number; body: string }, outcome: Outcome): void {
  outcome.requests++;
  if (status !== 200) fail(outcome, `${status} ${body.slice(0, 300)}`);
}

function fail(outcome: Outcome, why: string): void {
  outcome.failures++;
  outcome.firstFailure ??= why;
}
