/**
 * What two answers must share to count as the same: compatibility characters made one (NFKC), small letters, runs of white space as one space, without
 * quotation marks around it and without a full stop, exclamation or question mark, comma, colon or semicolon at the end. Words and their order stay.
 */
export function normaliseAnswer(text: string): string {
  return text
    .normalize('NFKC')
    .toLowerCase()
    .replace(/\s+/gu, ' ')
    .trim()
    .replace(/^["'“”‘’«»`]+|["'“”‘’«»`]+$/gu, '')
    .replace(/[.!?。！？,;:\s]+$/u, '')
    .replace(/["'“”‘’«»`]+$/gu, '');
}
