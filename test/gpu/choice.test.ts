import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describeDevice, openDevice, probeDevice } from '../../gpu-backend/runtime/device-open.ts';
import { ACCELERATORS, REPORTS_DIR, testDevices } from './device.ts';

for (const line of describeDevice(await openDevice('auto', REPORTS_DIR))) console.log(`# ${line}`);

for (const { device, skip, placement } of await testDevices()) {
  test(`${device}: every op is right, or has a remedy`, { skip }, async () => {
    const opened = await openDevice(device, REPORTS_DIR);
    for (const line of describeDevice(opened)) console.log(`# ${line}`);
    assert.equal(opened.conformance?.usable, true);
    assert.equal(placement.device, device);
    for (const { op, remedy } of opened.conformance?.findings ?? []) assert.notEqual(remedy, 'none', op);
  });
}

test('what is not used has a reason, and is refused by name with that reason', async () => {
  for (const device of ACCELERATORS) {
    const { problem } = await probeDevice(device);
    if (problem === null) continue;
    assert.ok(problem.length > 10, problem);
    await assert.rejects(openDevice(device, null), (error: Error) => error.message.includes(problem));
  }
});
