import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ProtobufWriter } from '../../../gpu-backend/runtime/protobuf.ts';

const hex = (w: ProtobufWriter): string => Buffer.from(w.finish()).toString('hex');

// Expected bytes are the worked examples of https://protobuf.dev/programming-guides/encoding/.
test('varint field', () => assert.equal(hex(new ProtobufWriter().int(1, 150)), '089601'));
test('string field', () => assert.equal(hex(new ProtobufWriter().string(2, 'testing')), '120774657374696e67'));
test('nested message', () => assert.equal(hex(new ProtobufWriter().message(3, (w) => w.int(1, 150))), '1a03089601'));
test('negative int64 takes ten bytes', () =>
  assert.equal(hex(new ProtobufWriter().int(1, -1)), '08ffffffffffffffffff01'));
test('float is little-endian', () => assert.equal(hex(new ProtobufWriter().float(2, 1.5)), '150000c03f'));
test('packed ints', () => assert.equal(hex(new ProtobufWriter().packedInts(6, [3, 270, 86942])), '3206038e029ea705'));
