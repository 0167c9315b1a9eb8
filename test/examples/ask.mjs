import { readFile } from 'node:fs/promises';
import OpenAI from 'openai';

const client = new OpenAI(); // reads OPENAI_BASE_URL and OPENAI_API_KEY

const show = async (name) => {
  const png = await readFile(`test/fixtures/pictures/${name}.png`, 'base64');
  return { type: 'image_url', image_url: { url: `data:image/png;base64,${png}` } };
};
const say = (text) => ({ type: 'text', text });

const messages = [];
const ask = async (content) => {
  messages.push({ role: 'user', content });
  const answer = await client.chat.completions.create({ model: 'mantis-nano', messages, temperature: 0, stream: true });
  let text = '';
  for await (const chunk of answer) text += chunk.choices[0]?.delta.content ?? '';
  messages.push({ role: 'assistant', content: text });
  console.log(text);
};

// Text and pictures in any order and in any turn; the model knows them as image 1, image 2, image 3.
await ask([await show('yellow-circle'), say('describe image 1')]);
await ask([await show('two-black-squares'), say('describe image 2')]);
await ask('which image has two black squares?');
await ask([await show('tower-of-4'), say('how many blocks are in image 3?')]);
