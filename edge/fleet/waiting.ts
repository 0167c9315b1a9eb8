/** Who waits for a backend: in order within a tenant, tenants in turn by what they have running. Pure. */
export class WaitingLine<T extends { id: string; tenant: string; model: string; rows: number; bytes: number }> {
  readonly #byTenant = new Map<string, T[]>();
  #length = 0;
  #rows = 0;
  #bytes = 0;

  get length(): number {
    return this.#length;
  }

  /** Answers that all of them ask for. */
  get rows(): number {
    return this.#rows;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get tenants(): number {
    return this.#byTenant.size;
  }

  lengthOf(tenant: string): number {
    return this.#byTenant.get(tenant)?.length ?? 0;
  }

  *[Symbol.iterator](): Generator<T> {
    for (const line of this.#byTenant.values()) yield* line;
  }

  /** @param first it has already waited once: before the others of its tenant */
  add(item: T, first = false): void {
    const line = this.#byTenant.get(item.tenant) ?? [];
    this.#byTenant.set(item.tenant, line);
    if (first) line.unshift(item);
    else line.push(item);
    this.#count(item, 1);
  }

  /** Takes one out that is in. */
  take(item: T): void {
    const line = this.#byTenant.get(item.tenant);
    const at = line?.indexOf(item) ?? -1;
    if (line === undefined || at < 0) return;
    line.splice(at, 1);
    if (line.length === 0) this.#byTenant.delete(item.tenant);
    this.#count(item, -1);
  }

  /** Takes out who satisfies `wants`. */
  remove(wants: (item: T) => boolean): T[] {
    const removed: T[] = [];
    for (const [tenant, line] of this.#byTenant) {
      const kept = line.filter((item) => !wants(item));
      if (kept.length === line.length) continue;
      removed.push(...line.filter(wants));
      if (kept.length === 0) this.#byTenant.delete(tenant);
      else this.#byTenant.set(tenant, kept);
    }
    for (const item of removed) this.#count(item, -1);
    return removed;
  }

  /** The next one in turn whose model is none of `full`: of the tenant with the fewest rows running, the first in its line. */
  next(runningOf: (tenant: string) => number, full: ReadonlySet<string>): T | null {
    let best: T | null = null;
    let fewest = Number.POSITIVE_INFINITY;
    for (const [tenant, line] of this.#byTenant) {
      const running = runningOf(tenant);
      if (running >= fewest) continue;
      const first = full.size === 0 ? line[0] : line.find(({ model }) => !full.has(model));
      if (first === undefined) continue;
      best = first;
      fewest = running;
    }
    return best;
  }

  #count({ rows, bytes }: T, sign: 1 | -1): void {
    this.#length += sign;
    this.#rows += sign * rows;
    this.#bytes += sign * bytes;
  }
}
