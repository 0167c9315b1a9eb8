import { nanoCurriculum } from './curriculum.ts';
import { NanoStream } from './samples.ts';
import { trainTokenizer } from './vocabulary.ts';

/** The Mantis image wrapper for the first images, as often as they are used; later numbers are put together from its pieces. */
const wrapperOf = (image: number): string => `(image ${image}: <Image>`;

/**
 * The texts that the nano vocabulary is learnt from: turns of the stream, with their image wrappers, and people's training statements.
 * @param statements NLVR training statements (never of another split); each counts `repeats` times
 */
export function* vocabularyTexts(
  stream: NanoStream,
  dialogues: number,
  statements: Iterable<string>,
  repeats = 5,
): Generator<string> {
  for (let index = 0; index < dialogues; index++) {
    for (const turn of stream.dialogue(index).turns) {
      for (const part of turn.user) {
        if (typeof part === 'string') yield `user\n\n${part}`;
        else {
          yield wrapperOf(part.image + 1);
          yield '</Image>)';
        }
      }
      yield `assistant\n\n${turn.assistant}`;
    }
    // Llama-3's header words and all six numbers keep their own entries whatever the mixture of dialogues.
    yield 'system\n\n';
    for (let image = 1; image <= 9; image++) yield wrapperOf(image);
  }
  for (const statement of statements) for (let i = 0; i < repeats; i++) yield statement;
}

const vocabularyDialogues = 6000;

/** The shipped vocabulary: 640 entries, one token for nearly every word of the grammar. @param statements distinct NLVR training statements */
export function nanoTokenizer(statements: readonly string[], vocabSize = 640): ReturnType<typeof trainTokenizer> {
  const stream = new NanoStream({ seed: 9, phases: nanoCurriculum(vocabularyDialogues) });
  return trainTokenizer(vocabularyTexts(stream, vocabularyDialogues, statements), vocabSize);
}
