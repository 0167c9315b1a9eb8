import sharp from 'sharp';

/** A way in which a line is bad, and the code that validation has for it. */
export interface Poison {
  readonly name: string;
  readonly code: string;
  /** @param n tells lines of one kind apart */
  readonly line: (n: number) => string | Buffer;
}

const dataUrl = (bytes: Uint8Array, mime = 'image/png'): string =>
  `data:${mime};base64,${Buffer.from(bytes).toString('base64')}`;
const image = (url: string): object => ({ type: 'image_url', image_url: { url } });

/** One turn each way. */
export function chatLine(urls: readonly string[], question: string, answer: string): string {
  const content = [...urls.map(image), { type: 'text', text: question }];
  return JSON.stringify({
    messages: [
      { role: 'user', content },
      { role: 'assistant', content: answer },
    ],
  });
}

/** A small picture with a pattern of its own. */
export async function patternPng(seed: number, width = 40, height = 40): Promise<Buffer> {
  const pixels = Buffer.alloc(width * height * 3);
  let state = (seed * 2_654_435_761 + 1) >>> 0;
  const next = (): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state >>> 24;
  };
  // Eight by eight cells, so that it looks like something at any size.
  const cells = Array.from({ length: 64 * 3 }, next);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < 3; c++) {
        const cell = Math.floor((y * 8) / height) * 8 + Math.floor((x * 8) / width);
        pixels[(y * width + x) * 3 + c] = cells[cell * 3 + c] ?? 0;
      }
  return await sharp(pixels, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
}

/** Twenty ways to spoil a line. */
export async function poisons(): Promise<Poison[]> {
  const png = await patternPng(1);
  const good = dataUrl(png);
  const long = await patternPng(2, 1, 201);
  const messages = (...turns: object[]): string => JSON.stringify({ messages: turns });
  const user = (content: unknown = 'what is it'): object => ({ role: 'user', content });
  const assistant = { role: 'assistant', content: 'it is that' };
  const shown = (url: string) => (n: number) => chatLine([url], `what is it, number ${n}`, 'that');
  return [
    { name: 'no JSON', code: 'invalid_json', line: (n) => `{"messages": [${n}` },
    { name: 'bad UTF-8', code: 'invalid_json', line: () => Buffer.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x7d]) },
    { name: 'another object', code: 'missing_required_parameter', line: (n) => `{"prompt": "ask ${n}"}` },
    { name: 'no turns', code: 'invalid_value', line: () => messages() },
    { name: 'unknown role', code: 'invalid_value', line: () => messages({ role: 'robot', content: 'hi' }, assistant) },
    {
      name: 'unknown field',
      code: 'unknown_parameter',
      line: (n) => JSON.stringify({ messages: [user(), assistant], tools: n }),
    },
    { name: 'ends with the question', code: 'invalid_value', line: () => messages(assistant, user()) },
    {
      name: 'nothing is learned',
      code: 'invalid_value',
      line: () => messages(user(), { ...assistant, weight: 0 }),
    },
    {
      name: 'picture of the assistant',
      code: 'image_not_allowed_here',
      line: () => messages(user(), { role: 'assistant', content: [image(good)] }),
    },
    {
      name: 'picture of the system',
      code: 'image_not_allowed_here',
      line: () => messages({ role: 'system', content: [image(good)] }, user(), assistant),
    },
    {
      name: 'too many pictures',
      code: 'too_many_images',
      line: () => chatLine(Array(65).fill(good), 'what are these', 'pictures'),
    },
    { name: 'broken base64', code: 'invalid_base64_image', line: shown(`${good.slice(0, -8)}!!!`) },
    { name: 'another type than declared', code: 'invalid_image_format', line: shown(dataUrl(png, 'image/jpeg')) },
    { name: 'unwanted type', code: 'unsupported_image_media_type', line: shown(dataUrl(png, 'image/tiff')) },
    { name: 'no picture', code: 'invalid_image_format', line: shown(dataUrl(Buffer.from('no picture at all'))) },
    { name: 'empty', code: 'empty_image_file', line: shown('data:image/png;base64,') },
    { name: 'cut short', code: 'image_parse_error', line: shown(dataUrl(png.subarray(0, png.length >> 1))) },
    { name: 'far too narrow', code: 'image_too_large', line: shown(dataUrl(long)) },
    { name: "nobody's file", code: 'image_file_not_found', line: shown('file-ofNobodyAtAll') },
    {
      name: 'too long',
      code: 'context_length_exceeded',
      line: () => chatLine([good], 'blue circle yellow square '.repeat(800), 'yes'),
    },
  ];
}
