/** Words about what is wrong, apart from the schemas: decode processes say them too, and start a quarter faster without zod. */

/** What is told about one violation: what was expected, what came, what to do. */
export type ErrorFacts = { expected: string; received?: string | number; remedy?: string };

/** `"<Subject>: expected X, received Y. Remedy."` */
export function errorMessage(subject: string, facts: ErrorFacts): string {
  const received = facts.received === undefined ? '' : `, received ${facts.received}`;
  const remedy = facts.remedy === undefined ? '' : ` ${facts.remedy}`;
  return `${subject}: expected ${facts.expected}${received}.${remedy}`;
}
