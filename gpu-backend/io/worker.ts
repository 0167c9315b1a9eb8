import { Worker } from 'node:worker_threads';

/** Asks a worker that answers each message with one of its own. @throws Error when it ends or breaks instead */
export function ask<Answer>(worker: Worker, message: unknown): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const done = (): void => {
      worker.off('message', onMessage);
      worker.off('error', onError);
      worker.off('exit', onExit);
    };
    const onMessage = (answer: Answer): void => {
      done();
      resolve(answer);
    };
    const onError = (error: unknown): void => {
      done();
      reject(error instanceof Error ? error : new Error(String(error)));
    };
    const onExit = (code: number): void => {
      done();
      reject(new Error(`a thread ended with code ${code}`));
    };
    worker.on('message', onMessage);
    worker.on('error', onError);
    worker.on('exit', onExit);
    worker.postMessage(message);
  });
}

/** Starts a TypeScript file as a worker, with the loader that this process itself runs under. */
export function startWorker(script: URL, workerData: unknown): Worker {
  // A worker does not inherit loaders registered by `--import tsx` on every Node 20, so it registers its own first. The
  // loader's address is absolute: code given as text would look for it from the working directory.
  const loader = JSON.stringify(import.meta.resolve('tsx/esm/api'));
  const start = `import(${loader}).then(({ register }) => { register(); return import(${JSON.stringify(script.href)}); });`;
  return new Worker(start, { eval: true, workerData, execArgv: [] });
}
