import assert from 'node:assert/strict';
import test from 'node:test';
import { Loans } from '../../../gpu-backend/train/loans.ts';

test('what several want is made once and ends after the last of them', async () => {
  const ended: string[] = [];
  const loans = new Loans<string>(async (value) => void ended.push(value));
  let made = 0;
  const make = async (): Promise<string> => `thing ${++made}`;
  const [a, b] = await Promise.all([loans.borrow('x', make), loans.borrow('x', make)]);
  const other = await loans.borrow('y', make);
  assert.deepEqual([a?.value, b?.value, other.value, loans.size], ['thing 1', 'thing 1', 'thing 2', 2]);
  await a?.release();
  await a?.release();
  assert.deepEqual(ended, []);
  const late = await loans.borrow('x', make);
  assert.equal(late.value, 'thing 1');
  await b?.release();
  await late.release();
  assert.deepEqual(ended, ['thing 1']);
  assert.equal((await loans.borrow('x', make)).value, 'thing 3');
});

test('what cannot be made is tried again by the next one', async () => {
  const loans = new Loans<number>(async () => {});
  const failing = (): number => {
    throw new Error('no memory');
  };
  const both = await Promise.allSettled([loans.borrow('x', failing), loans.borrow('x', failing)]);
  assert.deepEqual(
    both.map(({ status }) => status),
    ['rejected', 'rejected'],
  );
  assert.equal(loans.size, 0);
  assert.equal((await loans.borrow('x', () => 7)).value, 7);
});
