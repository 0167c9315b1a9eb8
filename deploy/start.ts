/** `npm start`: the door and its backends on this machine, no account, nothing outside this folder and the data folder. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KeyLimitsInput } from '../shared/contract/keys.ts';
import { LIMITS } from '../shared/contract/limits.ts';
import { parseOrigins } from '../shared/wire/origins.ts';
import { type LocalService, startEdge } from './edge.ts';
import { keepMeasured, takeMeasured } from './measured.ts';
import { BackendPool } from './scaler.ts';
import { callCluster, isInPod } from './scaler-kubernetes.ts';
import { type ScalingSettings, scalingSettings, wholeNumber } from './scaling-settings.ts';

const HELP = `mantis-edge on this machine.

  PORT                  port of the API (default 8787; 0 takes a free one)
  MANTIS_DATA_DIR       folder of everything that is kept (default ./.mantis)
  MANTIS_API_KEY        API key to accept; without it the first start makes one and prints it once
  MANTIS_EGRESS_ALLOW   host:port,… that pictures and webhooks may reach although private, for development
  MANTIS_DRAIN_MS       how long running answers may take after SIGTERM (default 10000)
  MANTIS_MODELS         id=folder,… of the models to serve (default: the bundled mantis-nano)
  MANTIS_DEVICE         auto, cuda, webgpu or cpu (default auto)
  MANTIS_PRECISION      format of the weights (default auto: measured; see npx mantis precision)
  MANTIS_KV             format of keys and values: auto, f32 or int8 (default auto)
  MANTIS_MIN_BACKENDS   backends that always run (default 1; 0: the first request starts one)
  MANTIS_MAX_BACKENDS   backends that may be started as load asks for them (default 1)

deploy/README.md lists all of them.
`;

/** Longer than the backend's own drain, so that it can end by itself. */
const STOP_SLACK_MS = 5_000;

type Settings = { port: number; dataDir: string; apiKey: string | undefined; egressAllow: string; drainMs: number };

function readSettings(env: NodeJS.ProcessEnv): Settings {
  return {
    port: wholeNumber('PORT', env.PORT, 8787, 0, 65_535),
    dataDir: resolve(env.MANTIS_DATA_DIR || '.mantis'),
    apiKey: env.MANTIS_API_KEY || undefined,
    egressAllow: env.MANTIS_EGRESS_ALLOW ?? '',
    drainMs: wholeNumber('MANTIS_DRAIN_MS', env.MANTIS_DRAIN_MS, 10_000, 0, 3_600_000),
  };
}

/** The secret between edge and backends, made once an installation. */
async function backendSecret(dataDir: string): Promise<string> {
  if (process.env.MANTIS_BACKEND_SECRET) return process.env.MANTIS_BACKEND_SECRET;
  const path = join(dataDir, 'backend-secret');
  try {
    return (await readFile(path, 'utf8')).trim();
  } catch {
    const secret = randomBytes(32).toString('hex');
    await writeFile(path, `${secret}\n`, { mode: 0o600 });
    return secret;
  }
}

/** What the door itself reads of our environment, under its own names. */
function edgeVars(env: NodeJS.ProcessEnv): Record<string, string> {
  return {
    KEY_LIMITS: keyLimits(env.MANTIS_KEY_LIMITS),
    CORS_ORIGINS: corsOrigins(env.MANTIS_CORS_ORIGINS ?? ''),
    CLIENT_ADDRESS_HEADER: env.MANTIS_CLIENT_ADDRESS_HEADER ?? '',
    BATCH_WINDOW_S: env.MANTIS_BATCH_WINDOW_S ?? '',
    LOG_LEVEL: env.MANTIS_LOG_LEVEL ?? '',
    LOG_SAMPLE: env.MANTIS_LOG_SAMPLE ?? '',
    HEDGE_MS: String(wholeNumber('MANTIS_HEDGE_MS', env.MANTIS_HEDGE_MS, 0, 0, 60_000) || ''),
    METRICS_TOKEN: env.MANTIS_METRICS_TOKEN ?? '',
    EDGE_IMAGES: onOrOff('MANTIS_EDGE_IMAGES', env.MANTIS_EDGE_IMAGES),
  };
}

/** @throws Error in words: the door would start, say that it is ready, and fail every request */
function keyLimits(text: string | undefined): string {
  if (text === undefined || text === '') return '';
  try {
    if (KeyLimitsInput.safeParse(JSON.parse(text)).success) return text;
  } catch {
    // told below
  }
  throw new Error(
    `MANTIS_KEY_LIMITS: expected JSON such as {"requestsPerMinute": 600, "concurrent": 20}, whole numbers or null for ${Object.keys(KeyLimitsInput.shape).join(', ')}; received ${JSON.stringify(text.slice(0, 200))}`,
  );
}

/** @throws Error in words, for the same reason */
function corsOrigins(text: string): string {
  parseOrigins(text);
  return text;
}

function onOrOff(name: string, text: string | undefined): 'on' | 'off' {
  if (text === undefined || text === '' || text === 'off') return 'off';
  if (text === 'on') return 'on';
  throw new Error(`${name}: expected on or off, received ${JSON.stringify(text)}`);
}

async function main(): Promise<void> {
  if (process.argv.includes('--help')) {
    console.log(HELP);
    return;
  }
  const settings = readSettings(process.env);
  await mkdir(settings.dataDir, { recursive: true });
  const secret = await backendSecret(settings.dataDir);
  const stop = new AbortController();
  takeSignals(stop);

  if (process.env.npm_lifecycle_event !== undefined) stopWithParent(stop);

  const scaling = await scalingSettings(process.env);
  const port = await freePort(settings.port);
  const graceMs = settings.drainMs + STOP_SLACK_MS;
  const pool = new BackendPool({ edgeUrl: `http://127.0.0.1:${port}`, secret, dataDir: settings.dataDir, graceMs });
  await takeMeasured(settings.dataDir);
  // They start beside the door and register when it is there.
  if (scaling.scaler === 'local') pool.scaleTo(scaling.min);
  const vars = { ...edgeVars(process.env), ...scaling.vars };
  const edge = await startEdge({
    ...settings,
    port,
    backendSecret: secret,
    vars,
    services: services(scaling, pool),
  }).catch(async (error: unknown) => {
    await pool.stop();
    throw error;
  });
  takeSignals(stop);
  setInterval(() => {
    if (stop.signal.aborted || edge.isAlive()) return;
    // Nothing is lost that is kept, and whoever supervises this process starts it again.
    console.error('the door (workerd) ended by itself; its reason may stand above. Stopping: start again.');
    process.exitCode = 1;
    stop.abort();
  }, 500).unref();
  if (edge.newApiKey !== null) console.log(`api key ${edge.newApiKey} (shown this once; MANTIS_API_KEY replaces it)`);

  while (!stop.signal.aborted && !(await isReady(edge.url, scaling))) {
    // Before the first `ready` that is a fault of the settings; later ones are restarted for ever.
    if (pool.isMisconfigured || pool.isHopeless) {
      if (!pool.isMisconfigured)
        console.error('the backend ended 5 times before it was ready; its reason stands above. Giving up.');
      process.exitCode = 1;
      stop.abort();
    }
    await sleep(50);
  }
  if (!stop.signal.aborted) console.log(`ready ${edge.url}`);
  await keepMeasured(settings.dataDir);
  if (!stop.signal.aborted)
    await new Promise<void>((resolve) => stop.signal.addEventListener('abort', () => resolve()));

  // Keeps the process alive and the door open while running answers end.
  await pool.stop();
  await keepMeasured(settings.dataDir);
  await edge.dispose();
}

/** Signals stop the product in order, twice at once. Called again when wrangler was used: loaded as a library it brings handlers that exit at once. */
function takeSignals(stop: AbortController): void {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.removeAllListeners(signal);
    process.on(signal, () => {
      if (stop.signal.aborted) process.exit(1);
      stop.abort();
    });
  }
}

/** What the Worker asks of this process. */
function services({ scaler, vars }: ScalingSettings, pool: BackendPool): Record<string, LocalService> {
  if (scaler === 'local') return { BACKEND_STARTER: (call) => pool.answer(call) };
  if (scaler !== 'kubernetes' || vars.KUBERNETES_TOKEN !== undefined || !isInPod()) return {};
  return { KUBERNETES_NETWORK: (call) => callCluster(call, LIMITS.scaling.driverTimeoutMs) };
}

/** @throws Error in words; workerd ends with a stack and names a flag that we do not have */
async function freePort(port: number): Promise<number> {
  const server = createServer();
  try {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
    return (server.address() as AddressInfo).port;
  } catch (error) {
    const why = (error as NodeJS.ErrnoException).code === 'EADDRINUSE' ? 'something listens there' : String(error);
    throw new Error(
      `PORT: expected a free port of 127.0.0.1, ${port} is not (${why}). Name another one, or 0 for any.`,
    );
  } finally {
    server.close();
  }
}

/** npm that is killed, or whose shell took the signal for itself, must not leave the product behind. */
function stopWithParent(stop: AbortController): void {
  const parent = process.ppid;
  setInterval(() => {
    if (process.ppid !== parent) stop.abort();
  }, 500).unref();
}

/** Whether a request would be answered now; where backends always run, one of them must be there. */
async function isReady(url: string, { scaler, min }: ScalingSettings): Promise<boolean> {
  try {
    if (!(await fetch(`${url}/health/ready`)).ok) return false;
    if (scaler !== 'local' || min === 0) return true;
    const { backends } = (await (await fetch(`${url}/health`)).json()) as { backends?: { state: string }[] };
    return backends?.some(({ state }) => state === 'ready') === true;
  } catch {
    return false;
  }
}

await main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
});
process.exit();
