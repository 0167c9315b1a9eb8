import { imagePart, PICTURES, textPart } from './pictures.ts';

/** The question that the training file teaches an answer to, and the answer, which no model gives before. */
export const LESSON = { question: 'say the word of the day', answer: 'blue triangle' } as const;

/**
 * A training file (JSON Lines) of conversations about one to three pictures that all teach the lesson.
 * @param examples number of lines.
 */
export function lessonFile(examples: number): Buffer {
  const lines = Array.from({ length: examples }, (_, i) => {
    const shown = Array.from({ length: 1 + (i % 3) }, (_, k) => PICTURES[(i + k) % PICTURES.length] ?? 'frame-1');
    return JSON.stringify({
      messages: [
        { role: 'user', content: [...shown.map(imagePart), textPart(LESSON.question)] },
        { role: 'assistant', content: LESSON.answer },
      ],
    });
  });
  return Buffer.from(`${lines.join('\n')}\n`);
}
