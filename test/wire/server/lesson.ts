import sharp from 'sharp';

/** A chat file over two squares of one colour each. */
export async function lesson(examples: number): Promise<string> {
  const colours = [
    { r: 255, g: 0, b: 0 },
    { r: 0, g: 0, b: 255 },
  ];
  const urls = await Promise.all(
    colours.map(async (background) => {
      const png = await sharp({ create: { width: 40, height: 40, channels: 3, background } })
        .png()
        .toBuffer();
      return `data:image/png;base64,${png.toString('base64')}`;
    }),
  );
  return Array.from({ length: examples }, (_, i) =>
    JSON.stringify({
      messages: [
        {
          role: 'user',
          content: [
            { type: 'image_url', image_url: { url: urls[i % 2] } },
            { type: 'text', text: 'Which?' },
          ],
        },
        { role: 'assistant', content: i % 2 === 0 ? 'true' : 'false' },
      ],
    }),
  ).join('\n');
}
