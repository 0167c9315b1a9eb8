/** A name server for tests whose answers change from one question to the next, as those of an attacker do (DNS rebinding). RFC 1035. */
import { createSocket } from 'node:dgram';

export type FlippingDns = { questions: number; close(): void };

/**
 * @param name below which it knows every name, without a dot at its end
 * @param answers addresses of a name's answers in turn, over again; each new name starts one further. IPv4 only
 */
export async function startFlippingDns(name: string, answers: readonly (readonly string[])[]): Promise<FlippingDns> {
  const socket = createSocket('udp4');
  const turns = new Map<string, number>();
  const dns: FlippingDns = { questions: 0, close: () => socket.close() };
  socket.on('message', (query, { port, address }) => {
    const labels: string[] = [];
    let at = 12;
    for (let length = query[at++] ?? 0; length > 0; length = query[at++] ?? 0) {
      labels.push(query.toString('latin1', at, at + length));
      at += length;
    }
    const isA = query.readUInt16BE(at) === 1;
    const asked = labels.join('.').toLowerCase();
    const known = asked.endsWith(`.${name}`);
    const turn = turns.get(asked) ?? turns.size;
    const addresses = known && isA ? (answers[turn % answers.length] ?? []) : [];
    if (known && isA) {
      turns.set(asked, turn + 1);
      dns.questions++;
    }
    const head = Buffer.alloc(12);
    head.writeUInt16BE(query.readUInt16BE(0), 0);
    head.writeUInt16BE(known ? 0x8580 : 0x8583, 2); // a response with authority; or: no such name
    head.writeUInt16BE(1, 4);
    head.writeUInt16BE(addresses.length, 6);
    const records = addresses.map((one) => {
      const record = Buffer.alloc(16);
      record.writeUInt16BE(0xc00c, 0); // the name in the question
      record.writeUInt16BE(1, 2);
      record.writeUInt16BE(1, 4);
      record.writeUInt16BE(4, 10); // after a time to live of 0
      record.set(one.split('.').map(Number), 12);
      return record;
    });
    socket.send(Buffer.concat([head, query.subarray(12, at + 4), ...records]), port, address);
  });
  await new Promise<void>((resolve) => socket.bind(53, '127.0.0.1', resolve));
  return dns;
}
