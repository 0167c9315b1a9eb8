import { readFile } from 'node:fs/promises';
import OpenAI from 'openai';

const client = new OpenAI(); // reads OPENAI_BASE_URL and OPENAI_API_KEY

const show = async (name) => {
  const png = await readFile(`test/fixtures/pictures/${name}.png`, 'base64');
  return { type: 'image_url', image_url: { url: `data:image/png;base64,${png}` } };
};
const say = (text) => ({ type: 'text', text });

// Text and pictures in any order; the model knows them as image 1, image 2, image 3.
const content = [
  say('here is one box:'),
  await show('yellow-circle'),
  say('here are two more:'),
  await show('two-black-squares'),
  await show('blue-triangle'),
  say('which image shows a yellow circle?'),
];
const answer = await client.chat.completions.create({
  model: 'mantis-nano',
  messages: [{ role: 'user', content }],
  temperature: 0,
  stream: true,
});
for await (const chunk of answer) process.stdout.write(chunk.choices[0]?.delta.content ?? '');
process.stdout.write('\n');
