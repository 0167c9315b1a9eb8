import { readFile } from 'node:fs/promises';
import OpenAI from 'openai';

const client = new OpenAI(); // reads OPENAI_BASE_URL and OPENAI_API_KEY
const model = 'mantis-nano';

const show = async (name) => {
  const png = await readFile(`test/fixtures/pictures/${name}.png`, 'base64');
  return { type: 'image_url', image_url: { url: `data:image/png;base64,${png}` } };
};
const pictures = [await show('yellow-circle'), await show('two-black-squares')];
const about = (text) => [{ role: 'user', content: [...pictures, { type: 'text', text }] }];
const ask = (text, fields) =>
  client.chat.completions.create({ model, messages: about(text), temperature: 0, ...fields });
const textsOf = ({ choices }) => choices.map(({ message }) => message.content);

// An object of a JSON schema: whatever the model would rather say, only tokens that fit are drawn.
const color = { enum: ['yellow', 'blue', 'black'] };
const schema = { type: 'object', properties: { big: color, small: color }, required: ['big', 'small'] };
const object = await ask('describe image 1', {
  response_format: { type: 'json_schema', json_schema: { name: 'colors', schema } },
});
console.log(Object.keys(JSON.parse(textsOf(object)[0])));

// A regular expression, or a list of choices.
console.log(textsOf(await ask('describe image 1', { structured_outputs: { regex: 'big \\w+ (circle|square)' } })));
console.log(
  textsOf(await ask('how many squares are in image 2?', { structured_outputs: { choice: ['1', '2', '3'] } })),
);

// Several answers to one prompt, here one that neither picture answers. They are read once; the same seed gives the same answers.
const several = { n: 3, seed: 1, temperature: 2 };
const first = await ask('which image has a tower?', several);
const again = await ask('which image has a tower?', several);
console.log(new Set(textsOf(first)).size > 1, String(textsOf(first)) === String(textsOf(again)));
console.log(`${again.usage.prompt_tokens_details.cached_tokens} of ${again.usage.prompt_tokens} tokens were known`);

// How likely given answers are, without generating any.
const { scores, best } = await client.post('/score', {
  body: { model, messages: about('image 1 has a medium circle'), options: ['true', 'false'] },
});
console.log(
  scores[best].option,
  scores.map(({ logprob }) => Math.exp(logprob).toFixed(2)),
);
