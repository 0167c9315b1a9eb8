import { createHash } from 'node:crypto';
import type { Thumbnail } from '../../../vision/encode.ts';
import type { Thumbnails } from '../thumbnails.ts';
import { html, Markup } from './markup.ts';
import { SCRIPT, STYLE } from './style.ts';

/**
 * One file that needs nothing else. The policy lets the page's own script run and no other, and nothing be fetched, so that text which slipped through the
 * escaping would still do nothing.
 */
export function page(title: string, body: Markup, sprites: Markup): string {
  const hash = createHash('sha256').update(SCRIPT).digest('base64');
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-${new Markup(hash)}'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>${title}</title>
<style>${new Markup(STYLE)}</style>
</head>
<body>
${sprites}
<main>
${body}
</main>
<script>${new Markup(SCRIPT)}</script>
</body>
</html>
`.text;
}

/** The pictures of a page, each once however often it is shown. */
export class Sprites {
  readonly #thumbnails: Thumbnails;
  readonly #used = new Map<string, number>();

  constructor(thumbnails: Thumbnails) {
    this.#thumbnails = thumbnails;
  }

  /** Nobody had the pictures at hand: a page of boxes would tell nothing. */
  get isEmpty(): boolean {
    return this.#thumbnails.size === 0;
  }

  /** The picture at its place; a box that says so where it is not embedded. */
  show(sha256: string, place: number, count: number): Markup {
    const thumbnail = this.#thumbnails.get(sha256);
    const label = `picture ${place} of ${count}`;
    if (thumbnail === undefined)
      return html`<figure><div class="none" role="img" aria-label="${label}, not embedded">not embedded</div><figcaption>${place}</figcaption></figure>`;
    const number = this.#used.get(sha256) ?? this.#used.size;
    this.#used.set(sha256, number);
    const { width, height } = thumbnail;
    const scale = Math.min(1, (count > 4 ? 96 : count > 1 ? 140 : 224) / Math.max(width, height));
    const [shownWidth, shownHeight] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
    return html`<figure><svg role="img" aria-label="${label}" width="${shownWidth}" height="${shownHeight}" viewBox="0 0 ${width} ${height}"><use href="#p${number}"/></svg><figcaption>${place}</figcaption></figure>`;
  }

  /** To stand before what shows them. Called last. */
  markup(): Markup {
    const images = [...this.#used].map(([sha256, number]) => {
      const thumbnail = this.#thumbnails.get(sha256);
      if (thumbnail === undefined) return null;
      const { width, height, webp } = thumbnail;
      return html`<image id="p${number}" data-sha256="${sha256}" width="${width}" height="${height}" href="data:image/webp;base64,${new Markup(Buffer.from(webp).toString('base64'))}"/>`;
    });
    return html`<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>${images}</defs></svg>`;
  }
}

const SPRITE =
  /<image id="p\d+" data-sha256="([0-9a-f]+)" width="(\d+)" height="(\d+)" href="data:image\/webp;base64,([A-Za-z0-9+/=]+)"\/>/g;

/** The pictures that a page of ours has, as `Sprites` wrote them: a page about the same questions need not have the files again. */
export function picturesIn(text: string): Thumbnails {
  // Before what anybody else wrote.
  const [sprites = ''] = text.split('<main>', 1);
  return new Map(
    [...sprites.matchAll(SPRITE)].map(([, sha256 = '', width, height, webp = '']): [string, Thumbnail] => [
      sha256,
      { width: Number(width), height: Number(height), webp: Buffer.from(webp, 'base64') },
    ]),
  );
}
