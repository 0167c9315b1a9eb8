/** Markup that is safe to put into a page: made by `html`, never by joining strings. */
export class Markup {
  constructor(readonly text: string) {}

  toString(): string {
    return this.text;
  }
}

type Part = Markup | string | number | null | undefined | readonly Part[];

/** A template whose values are escaped, unless they are markup themselves; lists are joined, null leaves nothing. What models and data sets say is hostile. */
export function html(strings: TemplateStringsArray, ...parts: readonly Part[]): Markup {
  let text = strings[0] ?? '';
  for (const [i, part] of parts.entries()) text += render(part) + (strings[i + 1] ?? '');
  return new Markup(text);
}

function render(part: Part): string {
  if (part === null || part === undefined) return '';
  if (part instanceof Markup) return part.text;
  if (typeof part === 'string') return escapeText(part);
  return typeof part === 'number' ? String(part) : part.map(render).join('');
}

/** For text and for attributes in either quotation marks. Control characters, which HTML forbids and which could reorder a page, become visible. */
export function escapeText(text: string): string {
  return text.replace(/[&<>"'`]|(?![\t\n\r])\p{Cc}|[\u202a-\u202e\u2066-\u2069]/gu, (character) => {
    const entity = ENTITIES[character];
    return entity ?? `[U+${(character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0')}]`;
  });
}

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
  '`': '&#96;',
};
