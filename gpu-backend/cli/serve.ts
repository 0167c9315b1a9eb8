import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';

/** `mantis serve`: a backend alone, configured by the environment (`gpu-backend/config.ts`). `npm start` runs the whole product. */
export function serveCommand(): Command {
  return new Command('serve')
    .description('run a backend alone, configured by MANTIS_* variables; npm start runs the whole product')
    .action(async () => {
      const script = fileURLToPath(new URL('../main.ts', import.meta.url));
      const child = spawn(process.execPath, ['--import', import.meta.resolve('tsx'), script], { stdio: 'inherit' });
      for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal));
      process.exitCode = await new Promise<number>((resolve) => child.once('exit', (code) => resolve(code ?? 1)));
    });
}
