/**
 * Process entry of a backend: environment in, exit code out. 0 = drained after SIGTERM or SIGINT, 1 = could not start or lost its
 * parent, 78 (sysexits' EX_CONFIG) = the environment is at fault, so that starting again is of no use.
 */
import { type Config, parseConfig } from './config.ts';
import { backendId } from './server/backend-id.ts';
import { type RunningServer, serve } from './server/serve.ts';
import { watchParent } from './server/watch-parent.ts';

function readConfig(): Config {
  try {
    return parseConfig(process.env);
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exit(78);
  }
}

async function start(): Promise<RunningServer> {
  const config = readConfig();
  // Before the models are loaded: a parent that dies meanwhile must not leave us behind.
  watchParent(config.parentPid, (reason) => {
    process.stderr.write(`${reason}; the backend ends with it\n`);
    process.exit(1);
  });
  return await serve({ ...config, id: config.id ?? (await backendId(process.env)) });
}

const server = await start().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(1);
});

for (const signal of ['SIGTERM', 'SIGINT'] as const)
  process.on(signal, () => {
    void server.close().then(() => process.exit(0));
  });

process.send?.({ type: 'listening', url: server.url });
