/** Reading of config.json field by field, with errors that name the whole path of a field. */

export type GeluKind = 'erf' | 'tanh' | 'quick';

/** Several times what published models of any size have. */
const MAX_LAYERS = 1024;

export type Json = Readonly<Record<string, unknown>>;

export function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Reads fields of one JSON object and names the whole path in errors. */
export class Fields {
  constructor(
    private readonly object: Json,
    private readonly path: string,
  ) {}

  private name(key: string): string {
    return this.path === '' ? key : `${this.path}.${key}`;
  }

  has(key: string): boolean {
    return this.object[key] !== undefined && this.object[key] !== null;
  }

  /** Written as null, which for some fields differs from left out. */
  isNull(key: string): boolean {
    return this.object[key] === null;
  }

  sub(key: string): Fields {
    const value = this.object[key] ?? {};
    if (!isObject(value)) throw this.wrong(key, 'an object');
    return new Fields(value, this.name(key));
  }

  wrong(key: string, expected: string): Error {
    return new Error(`config.json: ${this.name(key)} must be ${expected}, got ${JSON.stringify(this.object[key])}`);
  }

  count(key: string, fallback?: number): number {
    const value = this.object[key] ?? fallback;
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 1) throw this.wrong(key, 'a positive integer');
    return value;
  }

  /** A number of layers: each becomes nodes of the graph, so that a hostile file must not ask for billions. */
  layers(key: string, fallback?: number): number {
    const value = this.count(key, fallback);
    if (value > MAX_LAYERS) throw this.wrong(key, `at most ${MAX_LAYERS}`);
    return value;
  }

  integer(key: string, fallback?: number): number {
    const value = this.object[key] ?? fallback;
    if (typeof value !== 'number' || !Number.isInteger(value)) throw this.wrong(key, 'an integer');
    return value;
  }

  positive(key: string, fallback?: number): number {
    const value = this.object[key] ?? fallback;
    if (typeof value !== 'number' || !(value > 0) || !Number.isFinite(value))
      throw this.wrong(key, 'a positive number');
    return value;
  }

  flag(key: string, fallback: boolean): boolean {
    const value = this.object[key] ?? fallback;
    if (typeof value !== 'boolean') throw this.wrong(key, 'true or false');
    return value;
  }

  oneOf<T extends string>(key: string, allowed: readonly T[], fallback?: T): T {
    const value = this.object[key] ?? fallback;
    const found = allowed.find((a) => a === value);
    if (found === undefined) throw this.wrong(key, `one of ${allowed.join(', ')}`);
    return found;
  }

  token(key: string): number | null {
    return this.has(key) ? this.integer(key) : null;
  }

  tokens(key: string): number[] {
    const value = this.object[key] ?? [];
    const list: unknown[] = Array.isArray(value) ? value : [value];
    return list.map((v) => {
      if (typeof v !== 'number' || !Number.isInteger(v)) throw this.wrong(key, 'a token id or a list of them');
      return v;
    });
  }
}

const GELU: Readonly<Record<string, GeluKind>> = {
  gelu: 'erf',
  gelu_pytorch_tanh: 'tanh',
  gelu_new: 'tanh',
  quick_gelu: 'quick',
};

export function geluKind(fields: Fields, key: string, fallback: string): GeluKind {
  const kind = GELU[fields.oneOf(key, Object.keys(GELU), fallback)];
  if (kind === undefined) throw fields.wrong(key, `one of ${Object.keys(GELU).join(', ')}`);
  return kind;
}

export const HF_GELU: Readonly<Record<GeluKind, string>> = {
  erf: 'gelu',
  tanh: 'gelu_pytorch_tanh',
  quick: 'quick_gelu',
};
