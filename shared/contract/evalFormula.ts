/** Formulas over graders' scores: numbers, names, + - * / ^, parentheses and a few functions. Nothing is run: a formula is read into a function once. */

/** A formula that is none; the message says where. */
export class FormulaError extends Error {
  override readonly name = 'FormulaError';
}

export type Formula = (scores: Readonly<Record<string, number>>) => number;

const FUNCTIONS: Readonly<
  Record<string, { readonly count: number | null; readonly of: (values: number[]) => number }>
> = {
  min: { count: null, of: (values) => Math.min(...values) },
  max: { count: null, of: (values) => Math.max(...values) },
  abs: { count: 1, of: ([a = 0]) => Math.abs(a) },
  floor: { count: 1, of: ([a = 0]) => Math.floor(a) },
  ceil: { count: 1, of: ([a = 0]) => Math.ceil(a) },
  exp: { count: 1, of: ([a = 0]) => Math.exp(a) },
  sqrt: { count: 1, of: ([a = 0]) => Math.sqrt(a) },
  log: { count: 1, of: ([a = 0]) => Math.log(a) },
};
/** Parentheses within each other. */
const MAX_DEPTH = 32;

/**
 * Powers bind to the right and before signs (-2^2 = -4), then * and /, then + and -.
 * @param names what may stand in it
 * @throws FormulaError
 */
export function parseFormula(text: string, names: readonly string[]): Formula {
  const tokens = [...text.matchAll(/\s*(?:(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+)|([A-Za-z_]\w*)|([-+*/^(),])|(\S))/g)];
  let at = 0;
  let depth = 0;
  const peek = (): string | undefined => tokens[at]?.[3];
  const fail = (expected: string): never => {
    const token = tokens[at];
    throw new FormulaError(
      `expected ${expected}, received ${token === undefined ? 'the end' : `${JSON.stringify(token[0].trim())} at character ${(token.index ?? 0) + 1}`}`,
    );
  };
  const take = (symbol: string): void => {
    if (peek() !== symbol) fail(JSON.stringify(symbol));
    at++;
  };

  function sum(): Formula {
    if (++depth > MAX_DEPTH) fail(`at most ${MAX_DEPTH} parentheses within each other`);
    let left = product();
    for (let operator = peek(); operator === '+' || operator === '-'; operator = peek()) {
      at++;
      const [a, b, isSum] = [left, product(), operator === '+'];
      left = (scores) => (isSum ? a(scores) + b(scores) : a(scores) - b(scores));
    }
    depth--;
    return left;
  }
  function product(): Formula {
    let left = signed();
    for (let operator = peek(); operator === '*' || operator === '/'; operator = peek()) {
      at++;
      const [a, b, isProduct] = [left, signed(), operator === '*'];
      left = (scores) => (isProduct ? a(scores) * b(scores) : a(scores) / b(scores));
    }
    return left;
  }
  function signed(): Formula {
    let sign = 1;
    for (let operator = peek(); operator === '-' || operator === '+'; operator = peek()) {
      at++;
      if (operator === '-') sign = -sign;
    }
    const base = primary();
    let value = base;
    if (peek() === '^') {
      at++;
      if (++depth > MAX_DEPTH) fail(`at most ${MAX_DEPTH} powers within each other`);
      const exponent = signed();
      depth--;
      value = (scores) => base(scores) ** exponent(scores);
    }
    return sign === 1 ? value : (scores) => -value(scores);
  }
  function primary(): Formula {
    const token = tokens[at];
    if (token?.[1] !== undefined) {
      const number = Number(token[1]);
      at++;
      return () => number;
    }
    if (peek() === '(') {
      at++;
      const inner = sum();
      take(')');
      return inner;
    }
    const name = token?.[2];
    if (name === undefined) return fail('a number, a name or a parenthesis');
    at++;
    if (peek() === '(' && Object.hasOwn(FUNCTIONS, name)) return call(name);
    if (!names.includes(name)) {
      at--;
      return fail(`one of the graders ${names.join(', ')}, or a function of ${Object.keys(FUNCTIONS).join(', ')}`);
    }
    return (scores) => scores[name] ?? Number.NaN;
  }
  function call(name: string): Formula {
    const known = FUNCTIONS[name] as (typeof FUNCTIONS)[string];
    take('(');
    const parts = [sum()];
    while (peek() === ',') {
      at++;
      parts.push(sum());
    }
    if (known.count !== null && parts.length !== known.count)
      fail(`${known.count} value in ${name}(…), not ${parts.length}`);
    take(')');
    return (scores) => known.of(parts.map((part) => part(scores)));
  }

  const formula = sum();
  if (at < tokens.length) fail('an operator or the end');
  return formula;
}
