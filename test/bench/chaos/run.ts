/** A real installation whose backends come, go and are killed while it is asked. */
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Product, startProduct, stopAndForget } from '../../wire/e2e/product.ts';
import { ask, judge, QUESTIONS, readWhole, type Solo } from './ask.ts';

export type ChaosOptions = {
  seconds: number;
  /** A random backend is killed this often. */
  killEveryS: number;
  /** Requests under way at once while the load is heavy; meant to want `maxBackends`. */
  clients: number;
  maxBackends: number;
  seed: number;
  log?: (line: string) => void;
};

export type ChaosReport = {
  seconds: number;
  requests: number;
  streamed: number;
  answers: number;
  retryable: Record<string, number>;
  violations: string[];
  kills: number;
  /** Most backends that were ready at once; whether there were none, and one again after that. */
  mostReady: number;
  sawNone: boolean;
  sawOneAgain: boolean;
  processesSeen: number;
  orphans: number;
  exitCode: number | null;
  p50Ms: number;
  p99Ms: number;
};

/** Shares of the run: one client, all clients, nobody until there is no backend, one client. */
const PHASES = { one: 0.1, all: 0.6, none: 0.8 } as const;
const REQUEST_TIMEOUT_MS = 120_000;

export async function runChaos(options: ChaosOptions): Promise<ChaosReport> {
  const { seconds, killEveryS, clients, maxBackends, log = () => {} } = options;
  const random = mulberry32(options.seed);
  const shortS = String(Math.max(1, Math.round(seconds / 36)));
  const product = await startProduct({
    env: {
      MANTIS_MIN_BACKENDS: '0',
      MANTIS_MAX_BACKENDS: String(maxBackends),
      MANTIS_SCALE_UP_S: '0',
      MANTIS_SCALE_DOWN_S: shortS,
      MANTIS_IDLE_S: shortS,
      // Few places, so that few clients want many backends.
      MANTIS_MAX_ROWS: '2',
      MANTIS_JOBS: 'off',
      // Bit for bit the same whatever is cached: int8 keys that were stored are not those that were just computed.
      MANTIS_PRECISION: 'f32',
      MANTIS_KV: 'f32',
      MANTIS_LOG_LEVEL: 'warn',
    },
  });
  const seen = new Set<number>();
  const latencies: number[] = [];
  const report: ChaosReport = {
    seconds,
    requests: 0,
    streamed: 0,
    answers: 0,
    retryable: {},
    violations: [],
    kills: 0,
    mostReady: 0,
    sawNone: false,
    sawOneAgain: false,
    processesSeen: 0,
    orphans: 0,
    exitCode: null,
    p50Ms: 0,
    p99Ms: 0,
  };
  try {
    const solos = await soloAnswers(product);
    log(`alone: ${solos.map(({ text }) => JSON.stringify(text)).join(', ')}`);
    const startMs = performance.now();
    const share = () => (performance.now() - startMs) / (seconds * 1_000);
    const wanted = () => {
      const now = share();
      if (now < PHASES.one) return 1;
      if (now < PHASES.all) return clients;
      return now < PHASES.none ? 0 : 1;
    };
    const client = async (index: number): Promise<void> => {
      while (share() < 1) {
        if (index >= wanted()) {
          await sleep(50);
          continue;
        }
        const which = Math.floor(random() * QUESTIONS.length);
        const stream = random() < 0.5;
        report.requests++;
        if (stream) report.streamed++;
        const askedMs = performance.now();
        try {
          const answer = await ask(product, QUESTIONS[which]!, stream, REQUEST_TIMEOUT_MS);
          const verdict = judge(answer, stream, solos[which]);
          if (verdict.kind === 'answer') {
            report.answers++;
            latencies.push(performance.now() - askedMs);
          } else if (verdict.kind === 'retryable') {
            report.retryable[verdict.how] = (report.retryable[verdict.how] ?? 0) + 1;
            await sleep(200);
          } else {
            report.violations.push(verdict.what);
            log(`violation: ${verdict.what}`);
          }
        } catch (error) {
          const cause = error instanceof Error && error.cause !== undefined ? ` (${String(error.cause)})` : '';
          const what = `the connection broke: ${String(error)}${cause}, ${stream ? 'streamed' : 'whole'}`;
          report.violations.push(what);
          log(`violation: ${what}`);
        }
      }
    };
    const killer = async (): Promise<void> => {
      while (share() < 1) {
        await sleep(Math.min(killEveryS * 1_000, Math.max(1, (1 - share()) * seconds * 1_000)));
        const backends = await backendsOf(product);
        const victim = backends[Math.floor(random() * backends.length)];
        if (victim === undefined || share() >= 1) continue;
        report.kills++;
        try {
          process.kill(victim, 'SIGKILL');
        } catch {
          // It was just going.
        }
      }
    };
    const watcher = async (): Promise<void> => {
      let told = -1;
      while (share() < 1) {
        for (const pid of await product.processes()) seen.add(pid);
        const ready = await readyBackends(product).catch((error: unknown) => {
          report.violations.push(`GET /health: ${String(error)}`);
          return 0;
        });
        report.mostReady = Math.max(report.mostReady, ready);
        const isLate = share() > PHASES.all;
        if (isLate && ready === 0 && (await backendsOf(product)).length === 0) report.sawNone = true;
        if (report.sawNone && ready > 0) report.sawOneAgain = true;
        if (ready !== told) log(`${Math.round(share() * seconds)} s: ${ready} ready, ${report.answers} answers`);
        told = ready;
        await sleep(250);
      }
    };
    await Promise.all([...Array.from({ length: clients }, (_, i) => client(i)), killer(), watcher()]);
  } finally {
    for (const pid of await product.processes()) seen.add(pid);
    report.exitCode = await product.terminate().catch(() => null);
    await sleep(1_000);
    const orphans = await orphansOf(product, seen);
    report.orphans = orphans.length;
    for (const pid of orphans) process.kill(pid, 'SIGKILL');
    report.processesSeen = seen.size;
    if (report.exitCode !== 0 || report.orphans > 0) log(product.output().slice(-4_000));
    await stopAndForget(product);
  }
  latencies.sort((a, b) => a - b);
  const at = (share: number) => Math.round(latencies[Math.floor(share * (latencies.length - 1))] ?? 0);
  return { ...report, p50Ms: at(0.5), p99Ms: at(0.99) };
}

/** Each question asked alone, twice: an answer that is not always the same could not be compared with. */
async function soloAnswers(product: Product): Promise<Solo[]> {
  const solos: Solo[] = [];
  for (const question of QUESTIONS) {
    const said: Solo[] = [];
    for (let i = 0; i < 2; i++) {
      const { status, text } = await ask(product, question, false, REQUEST_TIMEOUT_MS);
      const solo = readWhole(text);
      if (solo === null) throw new Error(`asked alone: expected an answer, received ${status} ${text.slice(0, 300)}`);
      said.push(solo);
    }
    if (said[0]?.text !== said[1]?.text) throw new Error(`asked alone twice: two answers, ${JSON.stringify(said)}`);
    solos.push(said[0]!);
  }
  return solos;
}

async function readyBackends({ url }: Product): Promise<number> {
  const health = (await (await fetch(`${url}/health`)).json()) as { backends: { state: string }[] };
  return health.backends.filter(({ state }) => state === 'ready').length;
}

async function backendsOf(product: Product): Promise<number[]> {
  const pids = await product.processes();
  const isBackend = await Promise.all(
    pids.map(async (pid) =>
      (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).includes('gpu-backend/main'),
    ),
  );
  return pids.filter((_, i) => isBackend[i]);
}

/** Processes that were the product's, or carry its data folder in their environment, and are still there. */
async function orphansOf({ dataDir }: Product, seen: ReadonlySet<number>): Promise<number[]> {
  const orphans: number[] = [];
  for (const name of await readdir('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    const [stat, environment, command] = await Promise.all(
      ['stat', 'environ', 'cmdline'].map((file) => readFile(`/proc/${pid}/${file}`, 'utf8').catch(() => '')),
    );
    if (!/\) [^ZX ]/.test(stat ?? '')) continue;
    const isOurs = environment?.includes(dataDir) === true;
    // A number may be given anew; then it runs something else.
    const looksLikeOurs = /mantis-edge|gpu-backend|workerd|deploy\/start/.test(command ?? '');
    if (isOurs || (seen.has(pid) && looksLikeOurs)) orphans.push(pid);
  }
  return orphans;
}

/** Mulberry32: a small generator, so that a seed repeats a run's choices. */
function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}
