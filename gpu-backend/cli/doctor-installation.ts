/** What can only be checked through the API: the door, the key, the stores, a backend, an answer. */
import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import { MantisClient } from '../../shared/client/client.ts';
import { ClientError } from '../../shared/client/http.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { Check, Finding } from './doctor.ts';
import { TEST_PICTURES } from './doctor-pictures.ts';

interface Options {
  readonly url: string;
  readonly apiKey?: string;
  readonly model?: string;
}

/** Signed calls between edge and backend are refused beyond this; half of it is worth a word. */
const MOST_SKEW_MS = (LIMITS.backends.signatureToleranceS * 1000) / 2;
const CONNECT_TIMEOUT_MS = 5_000;
/** An answer to two small pictures takes a fraction of this on a slow machine. */
const SLOW_ANSWER_MS = 20_000;

export function installationChecks(options: Options): Check[] {
  const origin = options.url.replace(/\/(v1\/?)?$/, '');
  const api = (): MantisClient => new MantisClient({ baseUrl: origin, apiKey: options.apiKey ?? '', maxRetries: 0 });
  let model = options.model;
  return [
    { name: 'edge', run: () => checkEdge(origin) },
    { name: 'clock', needs: ['edge'], run: () => checkClock(origin) },
    { name: 'health', needs: ['edge'], run: () => checkHealth(origin) },
    { name: 'api key', needs: ['edge'], run: () => checkKey(api(), options.apiKey) },
    { name: 'stores', needs: ['api key'], run: () => refusalsAreFindings(() => checkStores(api())) },
    {
      name: 'backend',
      needs: ['api key'],
      run: () =>
        refusalsAreFindings(async () => {
          const { data } = await api().models.list();
          const served = data.filter(({ limits }) => limits !== null).map(({ id }) => id);
          model ??= served[0];
          if (model !== undefined && served.includes(model))
            return { status: 'ok', found: `serves ${served.join(', ')}` };
          return {
            status: 'fail',
            found: served.length === 0 ? 'no model is served' : `serves ${served.join(', ')}, but not ${model}`,
            remedy:
              'npm start starts a backend: its reason for not being there stands in its log (standard error). One of its own: npx mantis serve with MANTIS_EDGE_URL and MANTIS_BACKEND_SECRET as of the edge.',
          };
        }),
    },
    { name: 'answer', needs: ['backend'], run: () => refusalsAreFindings(() => checkAnswer(api(), model ?? '')) },
    { name: 'webhook targets', needs: ['api key'], run: () => refusalsAreFindings(() => checkWebhooks(api())) },
  ];
}

async function checkEdge(origin: string): Promise<Finding> {
  let answer: Response;
  try {
    answer = await fetch(`${origin}/version`, { signal: AbortSignal.timeout(CONNECT_TIMEOUT_MS) });
  } catch (error) {
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error);
    return {
      status: 'fail',
      found: `${origin} does not answer (${cause})`,
      remedy: 'npm start starts it; where it runs elsewhere, say so by --url or MANTIS_BASE_URL.',
    };
  }
  const body = (await answer.json().catch(() => ({}))) as { name?: string; version?: string };
  if (body.name === 'mantis-edge') return { status: 'ok', found: `${origin}, version ${body.version}` };
  return {
    status: 'fail',
    found: `${origin} answers ${answer.status}, but it is not mantis-edge`,
    remedy: 'Another program listens there: name the right origin by --url or MANTIS_BASE_URL.',
  };
}

async function checkClock(origin: string): Promise<Finding> {
  const sentMs = Date.now();
  const { time_ms: theirs } = (await (await fetch(`${origin}/version`)).json()) as { time_ms: number };
  // Half the way there and back is not the clock's fault.
  const skewMs = Math.round(theirs - (sentMs + Date.now()) / 2);
  if (Math.abs(skewMs) <= MOST_SKEW_MS) return { status: 'ok', found: `${Math.abs(skewMs)} ms apart` };
  return {
    status: 'fail',
    found: `the edge's clock is ${Math.abs(skewMs) / 1000} s ${skewMs > 0 ? 'ahead of' : 'behind'} this machine's`,
    remedy: `Signatures between edge and backends are refused beyond ${LIMITS.backends.signatureToleranceS} s: let both machines keep time (timedatectl set-ntp true).`,
  };
}

async function checkHealth(origin: string): Promise<Finding> {
  const answer = await fetch(`${origin}/health`, { signal: AbortSignal.timeout(CONNECT_TIMEOUT_MS) });
  const { status, reasons = [] } = (await answer.json()) as { status: string; reasons?: string[] };
  if (status === 'ok') return { status: 'ok', found: 'all parts answer' };
  return {
    status: 'warn',
    found: reasons.join('; ') || status,
    remedy: 'GET /health says the same at any time; the checks below say what follows from it.',
  };
}

async function checkKey(api: MantisClient, key: string | undefined): Promise<Finding> {
  if (key === undefined || key === '')
    return {
      status: 'fail',
      found: 'none given',
      remedy:
        'Set MANTIS_API_KEY or give --api-key; the first npm start prints a key, MANTIS_API_KEY at its start sets one.',
    };
  try {
    await api.models.list();
    return { status: 'ok', found: 'accepted' };
  } catch (error) {
    if (!(error instanceof ClientError)) throw error;
    if (error.status === 403)
      return { status: 'fail', found: error.message, remedy: 'Use a key with more scopes (npx mantis keys create).' };
    if (error.status !== 401) return asFinding(error);
    return {
      status: 'fail',
      found: 'refused: unknown, expired or revoked',
      remedy:
        'Use the key that the first start printed, or start with MANTIS_API_KEY=<yours>: it replaces that of an earlier start. npx mantis keys create makes others.',
    };
  }
}

/** A file there and back: through the database and the blob store. */
async function checkStores(api: MantisClient): Promise<Finding> {
  const sent = randomBytes(1_000);
  const startMs = performance.now();
  const { id } = await api.files.create(new Blob([sent]), 'doctor.bin', 'user_data');
  try {
    const came = Buffer.from(await api.files.content(id));
    if (!came.equals(sent))
      return {
        status: 'fail',
        found: 'a file came back different from what was sent',
        remedy: 'Do not trust this data folder: check the disk, restore the folder from a backup (deploy/README.md).',
      };
  } finally {
    await api.files.delete(id);
  }
  return { status: 'ok', found: `a file went there and back in ${Math.round(performance.now() - startMs)} ms` };
}

async function checkAnswer(api: MantisClient, model: string): Promise<Finding> {
  const pictures = TEST_PICTURES.map((base64) => ({
    type: 'image_url' as const,
    image_url: { url: `data:image/png;base64,${base64}` },
  }));
  const startMs = performance.now();
  const { usage, choices } = await api.chat.create({
    model,
    messages: [{ role: 'user', content: [...pictures, { type: 'text', text: 'Which picture is red?' }] }],
    max_completion_tokens: 8,
    temperature: 0,
  });
  const ms = Math.round(performance.now() - startMs);
  const images = usage.prompt_tokens_details?.image_tokens ?? 0;
  const found = `${model} answered about two pictures in ${ms} ms (${usage.prompt_tokens} tokens in, ${images} of pictures; ${usage.completion_tokens} out)`;
  if (images === 0 || choices.length === 0)
    return { status: 'fail', found, remedy: 'The pictures did not reach the model: npx mantis verify checks it.' };
  if (ms <= SLOW_ANSWER_MS) return { status: 'ok', found };
  return {
    status: 'warn',
    found,
    remedy: 'npx mantis precision and npx mantis devices say what this machine computes with; look whether it is busy.',
  };
}

/** Names are resolved and connected to from here; the edge itself refuses private addresses. */
async function checkWebhooks(api: MantisClient): Promise<Finding> {
  const { data } = await api.webhookEndpoints.list({ limit: 100 });
  if (data.length === 0) return { status: 'ok', found: 'none' };
  const disabled = data.filter(({ status }) => status === 'disabled').map(({ url }) => url);
  const targets = [...new Set(data.map(({ url }) => new URL(url).origin))];
  const outcomes = await Promise.all(
    targets.map(async (target) => ({ target, problem: await whyNoConnection(target) })),
  );
  const bad = outcomes.filter(({ problem }) => problem !== null);
  if (bad.length > 0)
    return {
      status: 'warn',
      found: bad.map(({ target, problem }) => `${target}: ${problem}`).join('; '),
      remedy:
        'Deliveries to them wait and are tried for three days: check the name, the firewall, and whether it runs.',
    };
  if (disabled.length > 0)
    return {
      status: 'warn',
      found: `disabled, because they answered 410: ${disabled.join(', ')}`,
      remedy: 'Delete them, or add them again once they want events.',
    };
  return { status: 'ok', found: `${targets.length} can be reached` };
}

function whyNoConnection(origin: string): Promise<string | null> {
  const { hostname, port, protocol } = new URL(origin);
  return new Promise((resolve) => {
    const socket = connect({
      host: hostname.replace(/^\[|\]$/g, ''),
      port: Number(port || (protocol === 'https:' ? 443 : 80)),
      timeout: CONNECT_TIMEOUT_MS,
    });
    const end = (problem: string | null): void => {
      socket.destroy();
      resolve(problem);
    };
    socket.once('connect', () => end(null));
    socket.once('timeout', () => end(`no connection within ${CONNECT_TIMEOUT_MS / 1000} s`));
    socket.once('error', (error) => end(error.message));
  });
}

async function refusalsAreFindings(check: () => Promise<Finding>): Promise<Finding> {
  try {
    return await check();
  } catch (error) {
    if (error instanceof ClientError) return asFinding(error);
    throw error;
  }
}

const REMEDY_OF_STATUS: Readonly<Record<number, string>> = {
  403: 'Use a key with this scope (npx mantis keys create), or take this as not checked.',
  429: "The key's limit is used up: wait, or raise it (npx mantis keys).",
  503: 'No backend is there or has room: its log (standard error of npm start) says why; try again in a minute.',
};

function asFinding(error: ClientError): Finding {
  const request = error.requestId === null ? '' : ` Its log line has request_id ${error.requestId}.`;
  return {
    status: 'fail',
    found: `${error.status} ${error.code ?? ''}: ${error.message}`,
    remedy: `${REMEDY_OF_STATUS[error.status] ?? 'The log of the edge (standard error of npm start) has the reason.'}${request}`,
  };
}
