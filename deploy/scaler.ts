/** The backends of this machine: as many processes as were asked for. The Worker's autoscaler asks, through a binding (`fetch`). */
import * as z from 'zod/mini';
import { type BackendOptions, BackendProcess } from './backend.ts';

/** A backend that ended this often before it was healthy will hardly come. */
const MAX_FAILED_STARTS = 5;

const Wish = z.object({
  desired: z.int().check(z.minimum(0), z.maximum(1_000)),
  remove: z.array(z.string()),
});

export type PoolOptions = BackendOptions & {
  /** From SIGTERM until SIGKILL, ms. */
  graceMs: number;
};

/** As `Observed` of edge/fleet/autoscale/driver.ts. */
export type PoolState = {
  desired: number;
  running: number;
  starting: number;
  ids: string[];
  problem: string | null;
  /** Nobody is started any more. */
  isStopping: boolean;
};

export class BackendPool {
  readonly #options: PoolOptions;
  #backends: BackendProcess[] = [];
  /** Told to end, and not yet gone. */
  readonly #leaving = new Set<Promise<void>>();
  #isStopping = false;

  constructor(options: PoolOptions) {
    this.#options = options;
  }

  state(): PoolState {
    const running = this.#backends.filter(({ isListening }) => isListening).length;
    return {
      desired: this.#backends.length,
      running,
      starting: this.#backends.length - running,
      ids: this.#backends.flatMap(({ id }) => (id === '' ? [] : [id])),
      problem: this.#problem(),
      isStopping: this.#isStopping,
    };
  }

  /** Its environment is at fault, whichever of them says so. */
  get isMisconfigured(): boolean {
    return this.#backends.some(({ isMisconfigured }) => isMisconfigured);
  }

  /** None of them comes up. */
  get isHopeless(): boolean {
    return this.#backends.length > 0 && this.#backends.every(({ failedStarts }) => failedStarts >= MAX_FAILED_STARTS);
  }

  /**
   * Starts or ends processes until there are `count`. Of those that answer, only the named ones are ended, each after what it works on; of those that
   * do not answer yet, any.
   */
  scaleTo(count: number, remove: readonly string[] = []): void {
    if (this.#isStopping) return;
    let excess = this.#backends.length - count;
    const ends = (backend: BackendProcess) => {
      const goes = excess > 0 && (!backend.isListening || remove.includes(backend.id));
      if (goes) excess--;
      return goes;
    };
    // The named ones first.
    const named = this.#backends.filter((backend) => remove.includes(backend.id) && ends(backend));
    const others = this.#backends.filter((backend) => !named.includes(backend) && ends(backend));
    const going = [...named, ...others];
    this.#backends = this.#backends.filter((backend) => !going.includes(backend));
    for (const backend of going) this.#end(backend);
    while (this.#backends.length < count) this.#backends.push(new BackendProcess(this.#options));
  }

  /** `GET`: the state. `PUT {desired, remove}`: `scaleTo`, then the state. */
  async answer({ method, body }: { method: string; body: string }): Promise<{ status: number; body: string }> {
    if (method === 'PUT') {
      const wish = Wish.safeParse(JSON.parse(body));
      if (!wish.success) return { status: 400, body: z.prettifyError(wish.error) };
      this.scaleTo(wish.data.desired, wish.data.remove);
    }
    return { status: 200, body: JSON.stringify(this.state()) };
  }

  /** Ends all, each after what it works on, and starts none any more. Resolves when they are gone. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    for (const backend of this.#backends.splice(0)) this.#end(backend);
    await Promise.all(this.#leaving);
  }

  #end(backend: BackendProcess): void {
    const gone = backend.stop(this.#options.graceMs).finally(() => this.#leaving.delete(gone));
    this.#leaving.add(gone);
  }

  #problem(): string | null {
    if (this.#isStopping) return 'the installation is being stopped';
    if (this.isMisconfigured) return 'the environment of the backends is at fault; their log says how';
    if (this.isHopeless)
      return `backends end before they answer, ${MAX_FAILED_STARTS} times in a row; their log says why`;
    return null;
  }
}
