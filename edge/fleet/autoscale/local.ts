import { type Driver, DriverError, type Observed } from './driver.ts';

/**
 * Backends as processes of this machine. The Worker cannot start any; the process that started the Worker does (deploy/scaler.ts), reached through a
 * binding that exists nowhere else.
 */
export class LocalDriver implements Driver {
  readonly name = 'local';
  readonly observeEveryMs = 0;
  readonly #starter: Fetcher;

  constructor(starter: Fetcher) {
    this.#starter = starter;
  }

  async observe(): Promise<Observed> {
    return (await this.#call('GET')) as Observed;
  }

  async scaleTo(count: number, remove: readonly string[]): Promise<void> {
    await this.#call('PUT', { desired: count, remove });
  }

  async #call(method: 'GET' | 'PUT', body?: object): Promise<unknown> {
    const response = await this.#starter.fetch('http://starter/backends', {
      method,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    if (response.ok) return await response.json();
    throw new DriverError(
      `the start process: expected 200, received ${response.status}: ${await response.text()}`,
      true,
    );
  }
}
